//! The last word to the parent: how the application ended, also where no console is read (outside debug mode).
//!
//! After the application's end, and after a failure of its own, the init connects to CID 3 port [`PORT`] and sends
//! one message, then closes. Nobody has to listen: the init waits at most a second and reboots either way.
//!
//! | bytes | content |
//! |---|---|
//! | 0..3 | `EIF` |
//! | 3 | version, 1 |
//! | 4 | kind: 0 exited, 1 killed by a signal, 2 the init failed |
//! | 5 | exit status, signal number, or 0 |
//! | 6..8 | error number, big endian, of kind 2; else 0 |
//! | 8.. | kind 2: the console line's text, at most 480 bytes of ASCII; else nothing |

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

/// The context id that an enclave knows its parent by.
pub const PARENT_CID: u32 = 3;

/// The port where the parent listens for the heartbeat of AWS's init and ours.
pub const HEARTBEAT_PORT: u32 = 9000;

/// The byte of the heartbeat, sent by the enclave and echoed by the parent.
pub const HEARTBEAT: u8 = 0xb7;

/// The port of this report, next to the heartbeat's.
pub const PORT: u32 = 9001;

/// Bytes before the text.
pub const HEAD: usize = 8;

/// How an enclave ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The application exited with this status.
    Exited(u8),
    /// The application was killed by this signal.
    Killed(u8),
    /// The init gave up; the error number, and the line follows.
    Failed(u16),
}

impl End {
    /// The message's first [`HEAD`] bytes.
    pub fn encode(self) -> [u8; HEAD] {
        let (kind, value, errno) = match self {
            End::Exited(status) => (0, status, 0),
            End::Killed(signal) => (1, signal, 0),
            End::Failed(errno) => (2, 0, errno),
        };
        let [high, low] = u16::to_be_bytes(errno);
        [b'E', b'I', b'F', 1, kind, value, high, low]
    }

    /// Reads a message and the text behind it. `None` for anything that [`End::encode`] does not write.
    pub fn decode(message: &[u8]) -> Option<(Self, &[u8])> {
        let (head, text) = message.split_first_chunk::<HEAD>()?;
        let end = match head {
            [b'E', b'I', b'F', 1, 0, status, 0, 0] => End::Exited(*status),
            [b'E', b'I', b'F', 1, 1, signal, 0, 0] => End::Killed(*signal),
            [b'E', b'I', b'F', 1, 2, 0, high, low] => End::Failed(u16::from_be_bytes([*high, *low])),
            _ => return None,
        };
        Some((end, text))
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for end in [End::Exited(0), End::Exited(255), End::Killed(9), End::Failed(110)] {
            assert_eq!(End::decode(&end.encode()), Some((end, &b""[..])));
        }
        assert_eq!(End::Killed(15).encode(), *b"EIF\x01\x01\x0f\0\0");
        assert_eq!(End::decode(b"EIF\x01\x02\0\0\x02eif-init: x"), Some((End::Failed(2), &b"eif-init: x"[..])));
    }

    #[test]
    fn anything_else_is_refused() {
        for message in [&b""[..], b"EIF\x01\0\0\0", b"EIF\x02\0\0\0\0", b"EIF\x01\x03\0\0\0", b"EIF\x01\0\0\0\x01"] {
            assert_eq!(End::decode(message), None);
        }
    }
}
