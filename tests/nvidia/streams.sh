#!/bin/sh
# Makes the elementary streams that tests/nvidia.rs and tests/bench/nvidia.rs read, with ffmpeg (libx264, libx265), and what
# ffmpeg's own decoder makes of them: decoding is exact, so each picture has one right hash. An access unit
# delimiter stands before each picture, where the tests cut.
#
#   tests/nvidia/streams.sh [FOLDER]      default: $WEIR_CACHE/nvdec or ~/.cache/weir/nvdec
set -eu
out=${1:-${WEIR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/weir}/nvdec}
street=${STREET:-/usr/share/doc/opencv-doc/examples/data/vtest.avi}
mkdir -p "$out"
cd "$out"
run() { ffmpeg -nostdin -v error -y "$@"; }
test_picture() { echo "testsrc2=size=$1:rate=25:duration=$2"; }
h264() { run -f lavfi -i "$(test_picture "$2" "$3")" -pix_fmt yuv420p -c:v libx264 -preset veryfast -g 25 $4 -bsf:v h264_metadata=aud=insert -f h264 "$1"; }
hashes() { run -i "$1" -fps_mode passthrough -pix_fmt nv12 -f framehash -hash sha256 "$1.sha256"; }

h264 reorder.h264 1280x720 2 "-bf 3 -refs 4"
h264 slices.h264 640x360 2 "-tune zerolatency -x264-params slices=4:sliced-threads=0"
h264 crop.h264 1918x1078 1 "-bf 2"
h264 small.h264 640x360 1 ""
cat small.h264 reorder.h264 small.h264 >change.h264
run -f lavfi -i "$(test_picture 1280x720 2)" -pix_fmt yuv420p -c:v libx265 -preset veryfast -x265-params "log-level=error:keyint=25:bframes=3" -bsf:v hevc_metadata=aud=insert -f hevc reorder.h265
run -f lavfi -i "$(test_picture 640x360 1)" -pix_fmt yuv420p10le -c:v libx265 -preset veryfast -x265-params log-level=error -bsf:v hevc_metadata=aud=insert -f hevc ten-bit.h265
run -f lavfi -i "$(test_picture 640x360 1)" -pix_fmt yuv420p -c:v libx264 -preset veryfast -flags +ildct+ilme -top 1 -bsf:v h264_metadata=aud=insert -f h264 interlaced.h264
run -f lavfi -i "$(test_picture 640x360 1)" -pix_fmt yuv422p -c:v libx264 -profile:v high422 -preset veryfast -bsf:v h264_metadata=aud=insert -f h264 wide-chroma.h264
# VP9 with hidden frames inside of superframes. AV1, where ffmpeg can make it: its chips are rare, the others must say no.
run -f lavfi -i "$(test_picture 640x360 2)" -pix_fmt yuv420p -c:v libvpx-vp9 -deadline realtime -cpu-used 5 -lag-in-frames 16 -auto-alt-ref 1 -b:v 1M -g 25 -f ivf vp9.ivf
run -f lavfi -i "$(test_picture 640x360 1)" -pix_fmt yuv420p -c:v libsvtav1 -preset 10 -f ivf av1.ivf || run -f lavfi -i "$(test_picture 320x180 1)" -pix_fmt yuv420p -c:v libaom-av1 -cpu-used 8 -f ivf av1.ivf || echo "no AV1: ffmpeg has no encoder for it"
if [ -s av1.ivf ]; then hashes av1.ivf; fi
for name in vp9.ivf reorder.h264 slices.h264 crop.h264 reorder.h265; do hashes $name; done
# A street with people, as it is and at the size and rate of most cameras: 1080p, 4 Mbit/s.
run -i "$street" -frames:v 200 -pix_fmt yuv420p -c:v libx264 -preset veryfast -g 25 -bsf:v h264_metadata=aud=insert -f h264 street.h264
hashes street.h264
hd="-vf scale=1920:1080:flags=bicubic -frames:v 300 -r 30 -pix_fmt yuv420p -b:v 4M -maxrate 4M -bufsize 4M -g 30 -bf 0"
run -r 30 -i "$street" $hd -c:v libx264 -preset veryfast -bsf:v h264_metadata=aud=insert -f h264 hd.h264
run -r 30 -i "$street" $hd -c:v libx265 -preset veryfast -x265-params log-level=error -bsf:v hevc_metadata=aud=insert -f hevc hd.h265
ls -l
