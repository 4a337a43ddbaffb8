//! The header of a virtio-vsock packet, as bytes and as a value (virtio 1.2, 5.10.6; linux/virtio_vsock.h).
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 44;
/// The only socket type that is carried: a stream.
pub const STREAM: u16 = 1;
/// The sender of this SHUTDOWN flag receives no more.
pub const SHUT_RCV: u32 = 1;
/// The sender of this SHUTDOWN flag sends no more.
pub const SHUT_SEND: u32 = 2;
/// Both directions.
pub const SHUT_BOTH: u32 = SHUT_RCV | SHUT_SEND;
/// No packet carries more (VIRTIO_VSOCK_MAX_PKT_BUF_SIZE of Linux).
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What a packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Op {
    /// Connect.
    Request = 1,
    /// The connection is accepted.
    Response = 2,
    /// Refused, or torn down.
    Rst = 3,
    /// One or both directions end (flags).
    Shutdown = 4,
    /// Data.
    Rw = 5,
    /// Here is my credit.
    CreditUpdate = 6,
    /// Tell me your credit.
    CreditRequest = 7,
}

impl Op {
    /// The operation of that number.
    pub fn from_raw(raw: u16) -> Option<Self> {
        [Self::Request, Self::Response, Self::Rst, Self::Shutdown, Self::Rw, Self::CreditUpdate, Self::CreditRequest]
            .into_iter()
            .find(|op| *op as u16 == raw)
    }
}

/// One header. Every field is the sender's claim; nothing is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// CID of the sender.
    pub src_cid: u64,
    /// CID of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Socket type ([`STREAM`]).
    pub kind: u16,
    /// Number of an [`Op`].
    pub op: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// Bytes that the sender can hold for the other side.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken off that buffer so far, modulo 2^32.
    pub fwd_cnt: u32,
}

/// Takes the next `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

impl Header {
    /// Reads a header from the front of `bytes`; `None` when there are fewer than [`HEADER_LEN`].
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let b = &mut bytes;
        Some(Self {
            src_cid: u64::from_le_bytes(take(b)?),
            dst_cid: u64::from_le_bytes(take(b)?),
            src_port: u32::from_le_bytes(take(b)?),
            dst_port: u32::from_le_bytes(take(b)?),
            len: u32::from_le_bytes(take(b)?),
            kind: u16::from_le_bytes(take(b)?),
            op: u16::from_le_bytes(take(b)?),
            flags: u32::from_le_bytes(take(b)?),
            buf_alloc: u32::from_le_bytes(take(b)?),
            fwd_cnt: u32::from_le_bytes(take(b)?),
        })
    }

    /// The header as it goes over the queue: [`HEADER_LEN`] bytes.
    pub fn encode(&self) -> Vec<u8> {
        [
            self.src_cid.to_le_bytes().as_slice(),
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ]
        .concat()
    }

    /// The refusal of this packet: sender and receiver swapped.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Rst as u16,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_linux_virtio_vsock_hdr() {
        let header = Header {
            src_cid: 4,
            dst_cid: 3,
            src_port: 0x0102_0304,
            dst_port: 9000,
            len: 1,
            kind: STREAM,
            op: Op::Rw as u16,
            flags: 2,
            buf_alloc: 0x4_0000,
            fwd_cnt: 7,
        };
        let golden = "0400000000000000030000000000000004030201282300000100000001000500020000000000040007000000";
        assert_eq!(hex::encode(header.encode()), golden);
        assert_eq!(header.encode().len(), HEADER_LEN);
        assert_eq!(Header::decode(&header.encode()), Some(header));
    }

    #[test]
    fn a_cut_header_is_none() {
        assert_eq!(Header::decode(&[0; HEADER_LEN - 1]), None);
    }

    proptest! {
        #[test]
        fn prop_any_bytes_decode_and_encode_back(bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN)) {
            prop_assert_eq!(Header::decode(&bytes).map(|h| h.encode()), Some(bytes));
        }
    }
}
