//! What kind of picture an encoded access unit holds, read from its first bytes: H.264, H.265 and MJPEG.
//!
//! Only what is certain is called disposable. Whatever is broken, unknown or mixed counts as a reference, which is always
//! decoded. Nothing in here decodes or checks a picture.
//!
//! | codec | key | disposable |
//! |---|---|---|
//! | H.264 (ITU-T H.264 7.3.1, 7.4.1) | `nal_unit_type` 5 (IDR). An I picture with a recovery point is none: what follows may refer to what came before | `nal_unit_type` 1 with `nal_ref_idc` 0 |
//! | H.265 (ITU-T H.265 7.4.2.2, table 7-1) | types 16 to 21 (IRAP) | sub-layer non-reference types (even, below 16) of the highest temporal sub-layer |
//! | MJPEG | | every picture stands alone |

use crate::flow::thin::{Coded, Kind};

/// Reads the access units of one stream.
#[derive(Debug)]
pub struct Reader {
    codec: Codec,
    framing: Framing,
}

#[derive(Debug)]
enum Codec {
    H264,
    /// With the highest TemporalId that a sequence parameter set allowed so far.
    H265(Option<u8>),
    Jpeg,
}

/// How NAL units are told apart.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// 00 00 01 (annex B).
    StartCodes,
    /// So many bytes of length before each (ISO/IEC 14496-15).
    Lengths(usize),
}

/// What the slices of an access unit have in common.
#[derive(Default)]
struct Slices {
    key: usize,
    disposable: usize,
    /// References, and everything that was not understood.
    other: usize,
    parameters: bool,
    /// Of the first slice.
    starts: Option<bool>,
    leans_back: bool,
}

impl Reader {
    /// For a stream with these caps: `media` is the media type, `stream_format` and `codec_data` the fields of that
    /// name. `None`: nothing is known of such a stream, and all of it is to be decoded.
    pub fn new(media: &str, stream_format: Option<&str>, codec_data: Option<&[u8]>) -> Option<Reader> {
        match (media, stream_format) {
            ("image/jpeg", _) => Some(Reader { codec: Codec::Jpeg, framing: Framing::StartCodes }),
            ("video/x-h264", Some("byte-stream")) => {
                Some(Reader { codec: Codec::H264, framing: Framing::StartCodes })
            }
            ("video/x-h265", Some("byte-stream")) => {
                Some(Reader { codec: Codec::H265(None), framing: Framing::StartCodes })
            }
            // AVCDecoderConfigurationRecord, ISO/IEC 14496-15 5.3.3.1.
            ("video/x-h264", Some("avc" | "avc3")) => {
                let lengths = usize::from(codec_data?.get(4)? & 3) + 1;
                Some(Reader { codec: Codec::H264, framing: Framing::Lengths(lengths) })
            }
            ("video/x-h265", Some("hvc1" | "hev1")) => {
                let data = codec_data?;
                let lengths = usize::from(data.get(21)? & 3) + 1;
                let mut reader = Reader { codec: Codec::H265(None), framing: Framing::Lengths(lengths) };
                reader.configure(data);
                Some(reader)
            }
            _ => None,
        }
    }

    /// What an access unit holds; `None` when there is no picture in it.
    pub fn read(&mut self, unit: &[u8]) -> Option<Coded> {
        if let Codec::Jpeg = self.codec {
            return Some(Coded { kind: Kind::Single, starts: true, leans_back: false });
        }
        let mut slices = Slices::default();
        let framing = self.framing;
        if !split(unit, framing, |nal| self.note(nal, &mut slices)) {
            slices.other += 1;
        }
        let starts = slices.starts?;
        let kind = match slices {
            Slices { key: 1.., disposable: 0, other: 0, .. } => Kind::Key,
            Slices { key: 0, disposable: 1.., other: 0, parameters: false, .. } => Kind::Disposable,
            _ => Kind::Reference,
        };
        Some(Coded { kind, starts, leans_back: slices.leans_back })
    }

    fn note(&mut self, nal: &[u8], slices: &mut Slices) {
        match &mut self.codec {
            Codec::H264 => note_h264(nal, slices),
            Codec::H265(highest) => note_h265(nal, slices, highest),
            Codec::Jpeg => {}
        }
    }

    /// The parameter sets of an HEVCDecoderConfigurationRecord, ISO/IEC 14496-15 8.3.3.1.
    fn configure(&mut self, data: &[u8]) {
        let mut slices = Slices::default();
        let (mut rest, mut arrays) = (data.get(23..).unwrap_or_default(), data.get(22).copied().unwrap_or(0));
        while let [_, high, low, tail @ ..] = rest
            && arrays > 0
        {
            arrays -= 1;
            rest = tail;
            for _ in 0..u16::from_be_bytes([*high, *low]) {
                let [high, low, tail @ ..] = rest else { return };
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let Some((nal, tail)) = tail.split_at_checked(length) else { return };
                self.note(nal, &mut slices);
                rest = tail;
            }
        }
    }
}

/// Hands on each NAL unit. False: the framing is broken.
fn split(unit: &[u8], framing: Framing, mut each: impl FnMut(&[u8])) -> bool {
    match framing {
        Framing::StartCodes => {
            let Some(mut at) = start_code(unit, 0) else { return unit.iter().all(|byte| *byte == 0) };
            let whole = unit[..at].iter().all(|byte| *byte == 0);
            loop {
                let next = start_code(unit, at + 3);
                each(&unit[at + 3..next.unwrap_or(unit.len())]);
                let Some(next) = next else { return whole };
                at = next;
            }
        }
        Framing::Lengths(bytes) => {
            let mut rest = unit;
            while !rest.is_empty() {
                let Some((length, tail)) = rest.split_at_checked(bytes) else { return false };
                let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                let Some((nal, tail)) = tail.split_at_checked(length) else { return false };
                each(nal);
                rest = tail;
            }
            true
        }
    }
}

/// Where the next 00 00 01 begins, at `from` or later.
fn start_code(unit: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(third) = unit.get(at + 2) {
        match third {
            // May be the first or second byte of one.
            0 => at += 1,
            1 if unit[at] == 0 && unit[at + 1] == 0 => return Some(at),
            _ => at += 3,
        }
    }
    None
}

/// ITU-T H.264 7.3.1: forbidden_zero_bit, nal_ref_idc (2 bits), nal_unit_type (5 bits).
fn note_h264(nal: &[u8], slices: &mut Slices) {
    let Some(header) = nal.first() else { return slices.other += 1 };
    let (forbidden, ref_idc, kind) = (header >> 7, header >> 5 & 3, header & 31);
    // first_mb_in_slice is ue(v): 0 is written as a single 1.
    let starts = nal.get(1).is_some_and(|byte| byte & 0x80 != 0);
    match kind {
        _ if forbidden != 0 => slices.other += 1,
        1 | 5 => {
            slices.starts.get_or_insert(starts);
            match (kind, ref_idc) {
                // Too short to be a slice.
                _ if nal.len() < 2 => slices.other += 1,
                (1, 0) => slices.disposable += 1,
                (5, 1..) => slices.key += 1,
                _ => slices.other += 1,
            }
        }
        // Data partitions and extensions: not told apart.
        2..=4 | 20 | 21 => {
            slices.starts.get_or_insert(starts);
            slices.other += 1;
        }
        7 | 8 | 13 | 15 => slices.parameters = true,
        // Supplemental information, delimiters, ends, filler, prefixes, auxiliary pictures.
        6 | 9..=12 | 14 | 19 => {}
        _ => slices.other += 1,
    }
}

/// ITU-T H.265 7.3.1.2: forbidden_zero_bit, nal_unit_type (6), nuh_layer_id (6), nuh_temporal_id_plus1 (3).
fn note_h265(nal: &[u8], slices: &mut Slices, highest: &mut Option<u8>) {
    let [first, second, body @ ..] = nal else { return slices.other += 1 };
    let (kind, layer, temporal) = (first >> 1 & 63, (first & 1) << 5 | second >> 3, second & 7);
    if first >> 7 != 0 || temporal == 0 {
        return slices.other += 1;
    }
    // first_slice_segment_in_pic_flag.
    let starts = body.first().is_some_and(|byte| byte & 0x80 != 0);
    match kind {
        0..=31 => {
            slices.starts.get_or_insert(starts);
            slices.leans_back |= matches!(kind, 8 | 9);
            match kind {
                _ if layer != 0 || body.is_empty() => slices.other += 1,
                0..=15 if kind % 2 == 0 && Some(temporal - 1) == *highest => slices.disposable += 1,
                16..=21 => slices.key += 1,
                _ => slices.other += 1,
            }
        }
        32..=34 => {
            slices.parameters = true;
            // 7.3.2.2.1: sps_video_parameter_set_id (4), sps_max_sub_layers_minus1 (3).
            if let (33, 0, Some(byte)) = (kind, layer, body.first()) {
                *highest = (*highest).max(Some(byte >> 1 & 7));
            }
        }
        35..=40 => {}
        _ => slices.other += 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPS_TWO_SUB_LAYERS: [u8; 3] = [33 << 1, 1, 0x02];

    fn h264() -> Reader {
        Reader::new("video/x-h264", Some("byte-stream"), None).unwrap()
    }

    fn avc() -> Reader {
        Reader::new("video/x-h264", Some("avc"), Some(&[1, 100, 0, 12, 0xff])).unwrap()
    }

    /// One that has seen two temporal sub-layers.
    fn h265() -> Reader {
        let mut reader = Reader::new("video/x-h265", Some("byte-stream"), None).unwrap();
        assert_eq!(reader.read(&annex_b(&[SPS_TWO_SUB_LAYERS.to_vec()])), None);
        reader
    }

    fn annex_b(nals: &[Vec<u8>]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&[0, 0, 1][..], nal].concat()).collect()
    }

    fn lengths(nals: &[Vec<u8>]) -> Vec<u8> {
        let length = |nal: &Vec<u8>| u32::try_from(nal.len()).unwrap().to_be_bytes();
        nals.iter().flat_map(|nal| [&length(nal)[..], nal].concat()).collect()
    }

    fn kind(reader: &mut Reader, nals: &[&[u8]]) -> Option<Kind> {
        let nals: Vec<Vec<u8>> = nals.iter().map(|nal| nal.to_vec()).collect();
        reader.read(&annex_b(&nals)).map(|unit| unit.kind)
    }

    #[test]
    fn h264_pictures_by_their_slices() {
        let (sei, sps, pps, aud): (&[u8], &[u8], &[u8], &[u8]) =
            (&[6, 1], &[0x67, 1], &[0x68, 1], &[9, 0xf0]);
        let (idr, p, b): (&[u8], &[u8], &[u8]) = (&[0x65, 0x88], &[0x41, 0x9a], &[0x01, 0x9e]);
        for (nals, expected) in [
            (vec![aud, sps, pps, sei, idr, idr], Some(Kind::Key)),
            (vec![aud, p], Some(Kind::Reference)),
            (vec![aud, sei, b, b, b], Some(Kind::Disposable)),
            (vec![b, p], Some(Kind::Reference)),
            (vec![idr, p], Some(Kind::Reference)),
            // What comes with it is needed by others.
            (vec![pps, b], Some(Kind::Reference)),
            // An IDR picture that is no reference does not exist; a cut slice is broken.
            (vec![&[0x05, 0x88][..]], Some(Kind::Reference)),
            (vec![b, &[0x01][..]], Some(Kind::Reference)),
            (vec![&[0x81, 0x9e][..], b], Some(Kind::Reference)),
            (vec![&[0x02, 0x9e][..]], Some(Kind::Reference)),
            (vec![aud, sps, pps], None),
            (vec![], None),
        ] {
            assert_eq!(kind(&mut h264(), &nals), expected, "{nals:x?}");
        }
    }

    #[test]
    fn h265_pictures_by_type_and_sub_layer() {
        let nal = |kind: u8, temporal: u8| [kind << 1, temporal + 1, 0x80];
        for (kind, temporal, expected) in [
            (0, 1, Kind::Disposable),
            (0, 0, Kind::Reference),
            (1, 1, Kind::Reference),
            (2, 1, Kind::Disposable),
            (8, 1, Kind::Disposable),
            (14, 1, Kind::Disposable),
            (15, 1, Kind::Reference),
            (19, 0, Kind::Key),
            (21, 0, Kind::Key),
            (22, 0, Kind::Reference),
        ] {
            let unit = h265().read(&annex_b(&[nal(kind, temporal).to_vec()])).unwrap();
            assert_eq!((unit.kind, unit.leans_back), (expected, matches!(kind, 8 | 9)), "{kind} {temporal}");
        }
        // Another layer; and a stream whose sub-layers are not known.
        assert_eq!(kind(&mut h265(), &[&[0, 8 | 2, 0x80]]), Some(Kind::Reference));
        let mut blank = Reader::new("video/x-h265", Some("byte-stream"), None).unwrap();
        assert_eq!(kind(&mut blank, &[&nal(0, 0)]), Some(Kind::Reference));
    }

    #[test]
    fn caps_say_how_to_read() {
        // The configuration of an x265 stream in MP4: four bytes of length, a VPS, an SPS and a PPS.
        let mut hvcc = vec![0u8; 23];
        (hvcc[21], hvcc[22]) = (0xff, 2);
        for nal in [&[32 << 1, 1, 0][..], &SPS_TWO_SUB_LAYERS] {
            hvcc.extend([nal[0] >> 1, 0, 1, 0, u8::try_from(nal.len()).unwrap()]);
            hvcc.extend(nal);
        }
        let mut reader = Reader::new("video/x-h265", Some("hvc1"), Some(&hvcc)).unwrap();
        let unit = lengths(&[vec![0, 2, 0x80]]);
        assert_eq!(reader.read(&unit).map(|unit| unit.kind), Some(Kind::Disposable));
        for cut in 0..hvcc.len() {
            let _ = Reader::new("video/x-h265", Some("hvc1"), Some(&hvcc[..cut]));
        }
        assert_eq!(avc().read(&lengths(&[vec![0x01, 0x9e]])).map(|unit| unit.kind), Some(Kind::Disposable));
        assert!(Reader::new("video/x-h264", Some("avc"), None).is_none());
        assert!(Reader::new("video/x-vp8", None, None).is_none());
        let mut jpeg = Reader::new("image/jpeg", None, None).unwrap();
        assert_eq!(jpeg.read(&[0xff, 0xd8]).map(|unit| unit.kind), Some(Kind::Single));
    }

    #[test]
    fn a_split_picture_starts_once() {
        // first_mb_in_slice 0 and 40.
        let starts = |nal: &[u8]| h264().read(&annex_b(&[nal.to_vec()])).map(|unit| unit.starts);
        assert_eq!((starts(&[0x41, 0x9a]), starts(&[0x41, 0x05])), (Some(true), Some(false)));
    }

    /// The rule of the standards, written a second time and without regard to cost: may this picture be left out?
    fn is_needed(nals: &[&[u8]], h265: bool) -> bool {
        nals.iter().any(|nal| match (h265, nal) {
            (false, [header, ..]) => {
                let (idc, kind) = (header >> 5 & 3, header & 31);
                matches!(kind, 1..=5 | 20 | 21) && (idc != 0 || kind != 1)
            }
            (true, [first, second, ..]) => {
                let kind = first >> 1 & 63;
                kind < 32 && (kind >= 16 || kind % 2 == 1 || second & 7 != 2)
            }
            _ => false,
        })
    }

    fn nal() -> impl Strategy<Value = Vec<u8>> {
        let header =
            prop_oneof![Just(0x01), Just(0x41), Just(0x65), Just(0x68), Just(0x00), Just(0x02), any::<u8>()];
        let body = prop::collection::vec(prop_oneof![0u8..4, Just(0x80), any::<u8>()], 0..12);
        (header, body).prop_map(|(header, body)| [vec![header], body].concat())
    }

    proptest! {
        /// Whatever bytes come, reading ends, and no picture with a slice that others need is called disposable.
        #[test]
        fn a_reference_is_never_called_disposable(
            nals in prop::collection::vec(nal(), 0..6),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            for (is_265, mut reader) in [(false, h264()), (true, h265())] {
                let mut unit = annex_b(&nals);
                for (at, byte) in &flips {
                    if !unit.is_empty() {
                        let at = at.index(unit.len());
                        unit[at] = *byte;
                    }
                }
                unit.truncate(cut.map_or(unit.len(), |cut| cut.index(unit.len() + 1)));
                let begins: Vec<usize> =
                    (0..unit.len()).filter(|at| unit[*at..].starts_with(&[0, 0, 1])).collect();
                let ends = begins.iter().skip(1).copied().chain([unit.len()]);
                let parts: Vec<&[u8]> = begins.iter().zip(ends).map(|(begin, end)| &unit[begin + 3..end]).collect();
                let disposable = reader.read(&unit).is_some_and(|unit| unit.kind == Kind::Disposable);
                prop_assert!(!(disposable && is_needed(&parts, is_265)), "{unit:x?}");
            }
        }

        /// The same with lengths; and a unit that is cut off is not disposable either.
        #[test]
        fn a_cut_unit_is_never_called_disposable(
            nals in prop::collection::vec(nal(), 1..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let unit = lengths(&nals);
            let parts: Vec<&[u8]> = nals.iter().map(Vec::as_slice).collect();
            let disposable = |unit: &[u8]| avc().read(unit).is_some_and(|unit| unit.kind == Kind::Disposable);
            prop_assert!(!(disposable(&unit) && is_needed(&parts, false)));
            let ends: Vec<usize> = nals.iter().scan(0, |at, nal| { *at += nal.len() + 4; Some(*at) }).collect();
            let cut = cut.index(unit.len());
            prop_assert!(cut == 0 || ends.contains(&cut) || !disposable(&unit[..cut]));
        }

        /// Both framings are read alike.
        #[test]
        fn framing_makes_no_difference(kinds in prop::collection::vec(any::<u8>(), 1..6)) {
            let nals: Vec<Vec<u8>> = kinds.iter().map(|header| vec![*header | 1, 0x88, 0x84]).collect();
            prop_assert_eq!(h264().read(&annex_b(&nals)), avc().read(&lengths(&nals)));
        }
    }
}
