#!/bin/sh
# Tries TensorRT-RTX's plugin (and TensorRT, if it is installed) beside the CUDA provider: frames a second at batch 1 and 8, or the exact words of
# what refuses.
#
#   tests/nvidia/rtx.sh BENCH PARTS MODEL.onnx [MODEL.onnx…]
#
# BENCH is what `cargo test --bench nvidia --no-run` built; PARTS the folder with rtx.tar.xz.part-*, which hold the plugin's libraries
# (libonnxruntime_providers_nv_tensorrt_rtx.so, libtensorrt_rtx.so.1, libtensorrt_onnxparser_rtx.so.1, libcudart.so.13) in lib/. ORT_DYLIB_PATH names
# onnxruntime-gpu's library.
set -eu
bench=$(readlink -f "$1"); parts=$(cd "$2" && pwd); shift 2
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat "$parts"/rtx.tar.xz.part-* | xz -dc | tar -xf - -C "$work"
export LD_LIBRARY_PATH="$work/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export WEIR_RTX="$work/lib/libonnxruntime_providers_nv_tensorrt_rtx.so" WEIR_ENGINES="$work/engines"
ldd "$WEIR_RTX" 2>/dev/null | grep 'not found' || true
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader || true
for model in "$@"; do
    echo "== $model"
    timeout "${LIMIT:-280}" "$bench" "$model" providers || echo "ended with $?"
done
