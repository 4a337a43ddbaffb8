//! Why an enclave was not started, or did not boot.

use std::io;
use std::path::PathBuf;

use super::code;
use crate::launch::nitro::Errno;
use crate::{Refusal, eif};

/// Why an enclave was not started, or did not boot.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such device.
    #[error("there is no {}", path.display())]
    NoDevice {
        /// Where it should be.
        path: PathBuf,
    },
    /// The device may not be opened.
    #[error("opening {}: {}", path.display(), code::cause(*errno))]
    Open {
        /// The device.
        path: PathBuf,
        /// The kernel's number.
        errno: i32,
    },
    /// The request cannot be granted, which is known without asking the driver.
    #[error("{message}")]
    Refused {
        /// The stable code.
        code: &'static str,
        /// What is wrong.
        message: String,
        /// What to do.
        help: Vec<String>,
    },
    /// The driver or the kernel said no.
    #[error("{doing}: {}", code::cause(*errno))]
    Driver {
        /// What was tried.
        doing: String,
        /// The kernel's number; 256 and more are the driver's own.
        errno: i32,
        /// What the machine's state adds to the number's own way out.
        help: Vec<String>,
    },
    /// What was loaded is no sound image.
    #[error(transparent)]
    Image(#[from] eif::Error),
    /// The enclave was started, and its heartbeat did not come.
    #[error("the enclave did not boot: {reason}")]
    Boot {
        /// The likely reason.
        reason: String,
        /// The last 64 KiB of the console; empty outside debug mode.
        console: Vec<u8>,
        /// What to do.
        help: Vec<String>,
    },
    /// A stopper was used before the heartbeat came.
    #[error("the enclave was stopped before it had booted")]
    Stopped,
    /// The operating system said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    pub(super) fn driver(doing: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::Driver { doing: doing.into(), errno: errno.raw_os_error(), help: Vec::new() }
    }

    pub(super) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::Io { what: what.into(), source: error.into() }
    }

    /// The driver's number, if it was the driver.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Driver { errno, .. } | Self::Open { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Adds a line of help to what the driver said.
    pub(super) fn with_help(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        if let Self::Driver { help, .. } = &mut self {
            help.extend(lines);
        }
        self
    }
}

impl Refusal for Error {
    fn code(&self) -> &'static str {
        match self {
            Self::NoDevice { .. } => "E-nitro-device",
            Self::Refused { code, .. } => code,
            Self::Open { errno, .. } | Self::Driver { errno, .. } => {
                code::find(*errno).map_or("E-nitro-driver", |row| row.code)
            }
            Self::Image(error) => error.code(),
            Self::Boot { .. } => "E-boot",
            Self::Stopped => "E-nitro-stopped",
            Self::Io { .. } => "E-io",
        }
    }

    fn help(&self) -> Vec<String> {
        let of = |errno| code::find(errno).map_or(&[][..], |row| row.help).iter().map(|line| (*line).to_owned());
        match self {
            Self::NoDevice { .. } => vec![
                "start the EC2 instance with enclaves enabled (`--enclave-options Enabled=true`)".into(),
                "on such an instance: `sudo modprobe nitro_enclaves`".into(),
                "`--backend qemu` boots the file in an emulated machine".into(),
            ],
            Self::Open { errno, .. } => of(*errno).collect(),
            Self::Driver { errno, help, .. } => help.iter().cloned().chain(of(*errno)).collect(),
            Self::Refused { help, .. } | Self::Boot { help, .. } => help.clone(),
            Self::Image(error) => error.help(),
            Self::Stopped | Self::Io { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_knows_comes_before_the_numbers_own_way_out() {
        let error = Error::driver("adding CPU 5")(Errno::from_raw_os_error(257)).with_help(["the pool is 1,3".into()]);
        assert_eq!(
            error.to_string(),
            "adding CPU 5: the CPU is not in the pool, or another enclave has its core (NE 257)"
        );
        assert_eq!((error.code(), error.errno()), ("E-nitro-cpus", Some(257)));
        assert_eq!(error.help().len(), 3);
        assert_eq!(error.help()[0], "the pool is 1,3");
    }

    #[test]
    fn a_number_without_a_row_is_still_a_refusal() {
        let error = Error::driver("creating the enclave")(Errno::from_raw_os_error(300));
        assert_eq!((error.code(), error.help()), ("E-nitro-driver", Vec::new()));
    }
}
