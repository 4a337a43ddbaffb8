//! The two ports of the parent that the launcher answers itself: the heartbeat and the init's last word.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use eif_init::report::{self, End, HEAD};
pub use eif_init::report::{HEARTBEAT, HEARTBEAT_PORT};

use crate::launch::AppStatus;

/// Port of the parent where our init says how the application ended.
pub const STATUS_PORT: u32 = report::PORT;

/// What the guest has told the launcher so far; written by the device's thread, read by anyone.
#[derive(Debug, Default)]
pub struct Record {
    heartbeat: AtomicBool,
    report: Mutex<Option<Report>>,
    news: Condvar,
}

/// The init's last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The application ended like this.
    Ended(AppStatus),
    /// The init gave up; its line on the console.
    Failed(String),
}

impl Record {
    /// Whether a heartbeat came and was answered.
    pub fn heartbeat(&self) -> bool {
        self.heartbeat.load(Ordering::Acquire)
    }

    /// The last report of the init, if one came.
    pub fn report(&self) -> Option<Report> {
        self.report.lock().unwrap_or_else(|broken| broken.into_inner()).clone()
    }

    /// Waits until `enough` says so; asked again after each word of the guest and each [`Record::nudge`]. False at the
    /// deadline.
    pub fn wait_until(&self, deadline: Option<Instant>, mut enough: impl FnMut() -> bool) -> bool {
        // Words are told under this lock, so none is missed between the question and the sleep.
        let mut told = self.report.lock().unwrap_or_else(|broken| broken.into_inner());
        while !enough() {
            told = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return false,
                Some(left) => self.news.wait_timeout(told, left).unwrap_or_else(|broken| broken.into_inner()).0,
                None => self.news.wait(told).unwrap_or_else(|broken| broken.into_inner()),
            };
        }
        true
    }

    /// Lets whoever waits ask again: something else has changed.
    pub fn nudge(&self) {
        drop(self.report.lock().unwrap_or_else(|broken| broken.into_inner()));
        self.news.notify_all();
    }

    fn set_heartbeat(&self) {
        self.heartbeat.store(true, Ordering::Release);
        self.nudge();
    }

    fn set_report(&self, report: Report) {
        *self.report.lock().unwrap_or_else(|broken| broken.into_inner()) = Some(report);
        self.news.notify_all();
    }
}

/// One connection to a port that the launcher answers.
#[derive(Debug)]
pub enum Service {
    /// Waits for the byte.
    Heartbeat,
    /// Collects a report.
    Status(Vec<u8>),
    /// Had what it wanted, or was broken; swallows the rest.
    Done,
}

/// What a service does with what came.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to say.
    Silence,
    /// This byte.
    Byte(u8),
    /// The guest breaks the protocol.
    Reset,
}

impl Service {
    /// The service of that port, if the launcher has one.
    pub fn at(port: u32, heartbeat: bool) -> Option<Self> {
        match port {
            HEARTBEAT_PORT if heartbeat => Some(Self::Heartbeat),
            STATUS_PORT => Some(Self::Status(Vec::new())),
            _ => None,
        }
    }

    /// Takes bytes of the guest.
    pub fn receive(&mut self, bytes: &[u8], record: &Record) -> Answer {
        match self {
            Self::Heartbeat => self.beat(bytes, record),
            Self::Status(held) => {
                held.extend(bytes.iter().take(MAX_REPORT.saturating_sub(held.len())));
                self.note(record)
            }
            Self::Done => Answer::Silence,
        }
    }

    fn beat(&mut self, bytes: &[u8], record: &Record) -> Answer {
        match bytes.first() {
            None => Answer::Silence,
            Some(&HEARTBEAT) => {
                record.set_heartbeat();
                *self = Self::Done;
                Answer::Byte(HEARTBEAT)
            }
            Some(_) => Answer::Reset,
        }
    }

    /// Notes what is there; the text of a failure may still grow.
    fn note(&mut self, record: &Record) -> Answer {
        let Self::Status(held) = self else { return Answer::Silence };
        if held.len() < HEAD {
            return Answer::Silence;
        }
        match parse_report(held) {
            Some(report) => {
                record.set_report(report);
                Answer::Silence
            }
            None => {
                *self = Self::Done;
                Answer::Reset
            }
        }
    }
}

/// Eight bytes, and at most 480 of text.
const MAX_REPORT: usize = 488;

/// The message of our init, in the terms of a launcher.
fn parse_report(message: &[u8]) -> Option<Report> {
    let (end, text) = End::decode(message)?;
    Some(match end {
        End::Exited(status) => Report::Ended(AppStatus::Exited(status)),
        End::Killed(signal) => Report::Ended(AppStatus::Killed(signal)),
        End::Failed(_) => Report::Failed(String::from_utf8_lossy(text).trim_end().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heartbeat_is_echoed_once_and_recorded() {
        let record = Record::default();
        let mut service = Service::at(9000, true).unwrap();
        assert_eq!(service.receive(&[], &record), Answer::Silence);
        assert!(!record.heartbeat());
        assert_eq!(service.receive(&[0xB7], &record), Answer::Byte(0xB7));
        assert_eq!(service.receive(&[0xB7], &record), Answer::Silence);
        assert!(record.heartbeat());
    }

    #[test]
    fn another_byte_is_no_heartbeat() {
        let record = Record::default();
        assert_eq!(Service::at(9000, true).unwrap().receive(&[0xB8], &record), Answer::Reset);
        assert!(!record.heartbeat());
        assert!(Service::at(9000, false).is_none());
    }

    #[test]
    fn a_report_may_come_in_pieces() {
        let record = Record::default();
        let mut service = Service::at(9001, true).unwrap();
        assert_eq!(service.receive(b"EIF\x01\x00", &record), Answer::Silence);
        assert_eq!(record.report(), None);
        assert_eq!(service.receive(&[7, 0, 0], &record), Answer::Silence);
        assert_eq!(record.report(), Some(Report::Ended(AppStatus::Exited(7))));
    }

    #[test]
    fn a_failure_brings_its_line_and_no_more_than_480_bytes_of_it() {
        let record = Record::default();
        let mut service = Service::at(9001, true).unwrap();
        assert_eq!(service.receive(b"EIF\x01\x02\x00\x00\x02", &record), Answer::Silence);
        assert_eq!(service.receive(b"eif-init: chdir: ", &record), Answer::Silence);
        assert_eq!(service.receive(b"gone (ENOENT)\n", &record), Answer::Silence);
        assert_eq!(record.report(), Some(Report::Failed("eif-init: chdir: gone (ENOENT)".into())));
        service.receive(&[b'x'; 1000], &record);
        assert!(matches!(record.report(), Some(Report::Failed(text)) if text.len() == 480));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let record = Record::default();
        for bad in [b"EIF\x02\x00\x07\x00\x00", b"EIF\x01\x03\x07\x00\x00", b"EIF\x01\x00\x07\x00\x01"] {
            assert_eq!(Service::at(9001, true).unwrap().receive(bad, &record), Answer::Reset);
        }
        assert_eq!(record.report(), None);
        let killed = Service::at(9001, true).unwrap().receive(b"EIF\x01\x01\x09\x00\x00", &record);
        assert_eq!((killed, record.report()), (Answer::Silence, Some(Report::Ended(AppStatus::Killed(9)))));
    }
}
