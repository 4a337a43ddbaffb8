//! How a layer's tar is packed.

use flate2::write::GzEncoder;
use std::io::Write;

/// A layer's compression, with the shapes that readers stumble over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// The plain tar.
    #[default]
    None,
    /// One gzip member.
    Gzip,
    /// Several gzip members in a row, with an empty one among them (as pigz and eStargz write).
    GzipMembers,
    /// One zstd frame.
    Zstd,
    /// A skippable frame, two frames, and a skippable frame at the end (as pzstd and zstd:chunked write).
    ZstdFrames,
}

impl Compression {
    /// All of them.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::GzipMembers, Compression::Zstd, Compression::ZstdFrames];

    /// The packed bytes.
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        let (head, tail) = tar.split_at(tar.len() / 3);
        match self {
            Compression::None => tar.to_vec(),
            Compression::Gzip => gzip(tar),
            Compression::GzipMembers => [gzip(head), gzip(b""), gzip(tail)].concat(),
            Compression::Zstd => zstd_frame(tar),
            Compression::ZstdFrames => [skippable(), zstd_frame(head), zstd_frame(tail), skippable()].concat(),
        }
    }

    /// The suffix of the layer's media type: empty, `gzip` or `zstd`.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip | Compression::GzipMembers => "gzip",
            Compression::Zstd | Compression::ZstdFrames => "zstd",
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("writing to memory")
}

/// RFC 8878, 3.1.2: magic 0x184D2A5?, length, user data.
fn skippable() -> Vec<u8> {
    [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn every_shape_unpacks_to_the_same_tar() {
        let tar: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        for shape in Compression::ALL {
            let packed = shape.pack(&tar);
            let mut plain = Vec::new();
            match shape.suffix() {
                "gzip" => drop(flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap()),
                "zstd" => drop(zstd::Decoder::new(&packed[..]).unwrap().read_to_end(&mut plain).unwrap()),
                _ => plain.clone_from(&packed),
            }
            assert!(plain == tar, "{shape:?}");
        }
    }
}
