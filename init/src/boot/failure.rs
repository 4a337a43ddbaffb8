//! Why a step failed, as one console line: `eif-init: STEP "SUBJECT": reason (ERRNO)`.

use crate::errno::Errno;
use crate::text::Line;

/// A step's failure.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    step: &'static str,
    subject: Option<&'static [u8]>,
    reason: Option<&'static str>,
    errno: Errno,
}

impl Failure {
    /// A failure whose reason is the error's own.
    pub fn new(step: &'static str, errno: Errno) -> Self {
        Self { step, subject: None, reason: None, errno }
    }

    /// Names what the step was about.
    pub fn of(self, subject: &'static [u8]) -> Self {
        Self { subject: Some(subject), ..self }
    }

    /// Says more than the error's own words.
    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// Which step failed.
    pub fn step(&self) -> &'static str {
        self.step
    }

    /// The error.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The console line.
    pub fn line(&self) -> Line {
        let mut line = Line::new();
        line.text("eif-init: ").text(self.step);
        if let Some(subject) = self.subject {
            line.text(" ").quoted(subject);
        }
        line.text(": ").text(self.reason.unwrap_or(self.errno.reason())).errno(self.errno);
        line
    }
}

/// Turns a call's error into a step's failure.
pub trait At<T> {
    /// Names the step.
    fn at(self, step: &'static str) -> Result<T, Failure>;

    /// Names the step and what it was about.
    fn on(self, step: &'static str, subject: &'static [u8]) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, step: &'static str) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, errno))
    }

    fn on(self, step: &'static str, subject: &'static [u8]) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, errno).of(subject))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_interfaces() {
        let exec = Failure::new("exec", Errno::ENOENT).of(b"/no such");
        assert_eq!(exec.line().bytes(), br#"eif-init: exec "/no such": no such file (ENOENT)"#);
        let heartbeat = Failure::new("heartbeat", Errno::ETIMEDOUT).because("no answer");
        assert_eq!(heartbeat.line().bytes(), b"eif-init: heartbeat: no answer (ETIMEDOUT)");
    }
}
