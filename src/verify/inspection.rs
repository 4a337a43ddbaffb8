//! All facts of a file, in the shape that `eif inspect --json` prints, and every reason not to trust it.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::unwrap_used
)]

use std::ffi::CStr;
use std::io::{self, Read};

use serde::Serialize;
use sha2::Digest as _;

use super::Error;
use super::contents::{Own, open};
use super::nitro_cli;
use crate::chunk;
use crate::eif::measure::{PCR2_OF_NOTHING, Sha384};
use crate::eif::{self, Eif, Kind, Measurements, Metadata, Source};
use crate::image::Process;
use crate::initramfs::{Need, Packing, newc};
use crate::{Refusal, escaped, kernel};

/// The facts. Fields stand in the order of the JSON.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// nitro-cli's object; `None` when the sections are not what they seem, so that no value is right.
    #[serde(rename = "Measurements")]
    pub measurements: Option<Measurements>,
    /// What the header's flag says.
    pub arch: &'static str,
    /// Whether the CRC holds.
    pub crc_ok: bool,
    /// In file order.
    pub sections: Vec<Section>,
    /// Of a signed file.
    pub signature: Option<Signature>,
    /// The first kernel section.
    pub kernel: Option<Kernel>,
    /// The first cmdline section; bytes that are no printable UTF-8 as `\xNN`.
    pub cmdline: Option<String>,
    /// AWS's object.
    pub metadata: Option<Metadata>,
    /// What runs, from our file `process` or from AWS's `cmd` and `env`. Bytes that are no UTF-8 are `\xNN`.
    pub process: Option<Process>,
    /// In file order.
    pub ramdisks: Vec<Ramdisk>,
    /// What is wrong, in the order in which it was found.
    pub findings: Vec<Finding>,
}

/// A section.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// `kernel`, `cmdline`, `metadata`, `ramdisk`, `signature` or `type N`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where its header begins, in bytes.
    pub offset: u64,
    /// Bytes of its data.
    pub size: u64,
    /// The section header's.
    pub flags: u16,
    /// Of its data, in hex.
    pub sha384: String,
}

/// A signature.
#[derive(Debug, Clone, Serialize)]
pub struct Signature {
    /// Whether the certificate's key has signed this file's PCR0; if not, a finding says why. Time and the
    /// certificate's issuer have no part in it.
    pub valid: bool,
    /// The signing certificate; `None` if it cannot be read.
    pub certificate: Option<Certificate>,
}

/// The signing certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Certificate {
    /// Whom it is for (RFC 4514).
    pub subject: String,
    /// Who issued it.
    pub issuer: String,
    /// Its number, `0A:1B:…`.
    pub serial: String,
    /// The first moment of its validity (RFC 3339).
    pub not_before: String,
    /// The last one.
    pub not_after: String,
    /// What its key signs with, `ES384`; `None` for a key that cannot sign an .eif.
    pub algorithm: Option<&'static str>,
    /// SHA-256 of its DER, in hex: its fingerprint.
    pub sha256: String,
}

/// The kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// `bzImage`, `Image`, …, or `unknown`.
    pub format: &'static str,
    /// `6.12.117`, where the kernel tells.
    pub version: Option<String>,
}

/// A ramdisk.
#[derive(Debug, Clone, Serialize)]
pub struct Ramdisk {
    /// `cpio`, `gzip`, `zstd`, `xz`, …, or `unknown`.
    pub format: &'static str,
    /// Entries, trailers not counted; `None` where the format is not read here.
    pub entries: Option<u64>,
    /// Bytes of all files as the kernel unpacks them, each in whole pages of 4096; `None` as for `entries`.
    pub unpacked: Option<u64>,
}

/// Something that is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The stable code.
    pub code: &'static str,
    /// `error` where some reader or kernel refuses or loses it; `note` where it is so in every file of its maker; else
    /// `warning`.
    pub level: &'static str,
    /// One line.
    pub message: String,
    /// Where in the file to look, in bytes.
    pub offset: u64,
}

impl Finding {
    fn new(code: &'static str, message: String, offset: u64) -> Self {
        let level = if code.starts_with("E-") { "error" } else { "warning" };
        Self { code, level, message, offset }
    }

    fn note(code: &'static str, message: String, offset: u64) -> Self {
        Self { code, level: "note", message, offset }
    }
}

/// Reads a file that has been examined from end to end, and tells what is in it.
///
/// # Errors
/// The file cannot be read. What is wrong inside it is a finding.
pub fn inspect<S: Source>(eif: &Eif<S>, threads: usize) -> Result<Inspection, Error> {
    let mut findings: Vec<Finding> =
        eif.faults().iter().map(|fault| Finding::new(fault.code(), fault.to_string(), fault.offset())).collect();
    let kernel = kernel(eif, &mut findings)?;
    let (ramdisks, own) = ramdisks(eif, &mut findings)?;
    let process = process(eif, &own, &mut findings);
    let measurements = readable(eif.measure(threads))?;
    let metadata = readable(eif.metadata())?.flatten();
    let signature = signature(eif, measurements, &mut findings)?;
    let at = eif.section(Kind::Metadata).map_or(0, |section| section.offset);
    let losses = metadata.iter().flat_map(|metadata| nitro_cli::losses(metadata, &own.shape));
    findings.extend(losses.map(|(code, text)| Finding::note(code, text, at)));
    Ok(Inspection {
        measurements,
        arch: eif.arch().name(),
        crc_ok: eif.crc_ok(),
        sections: eif.sections().iter().map(|section| digest(eif, section)).collect::<io::Result<_>>()?,
        signature,
        kernel,
        cmdline: readable(eif.cmdline())?.map(|line| text(&line)),
        metadata,
        process,
        ramdisks,
        findings,
    })
}

/// A fault is told among the findings; here it only means that there is no value.
fn readable<T>(result: Result<T, eif::Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(eif::Error::Fault(_)) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| escaped(bytes))
}

fn digest<S: Source>(eif: &Eif<S>, section: &eif::Section) -> io::Result<Section> {
    let mut hash = Sha384::new();
    chunk::each(&mut eif.read(section), |bytes| hash.update(bytes))?;
    let eif::Section { kind, offset, size, flags, .. } = *section;
    Ok(Section { kind: kind.to_string(), offset, size, flags, sha384: hex::encode(hash.finish()) })
}

fn signature<S: Source>(
    eif: &Eif<S>,
    measurements: Option<Measurements>,
    findings: &mut Vec<Finding>,
) -> Result<Option<Signature>, Error> {
    let Some(section) = eif.section(Kind::Signature) else { return Ok(None) };
    // Where a part is missing, a fault among the findings has said why.
    let unknown = Signature { valid: false, certificate: None };
    let (Some(Some(cbor)), Some(measured)) = (readable(eif.signature())?, measurements) else {
        return Ok(Some(unknown));
    };
    let Ok(verdict) = eif::signature::verify(&cbor, &measured.pcr0) else { return Ok(Some(unknown)) };
    let found = verdict.problems.iter().map(|p| Finding::new(p.code(), p.to_string(), section.offset));
    findings.extend(found);
    Ok(Some(Signature { valid: verdict.valid(), certificate: verdict.certificate.as_ref().map(certificate) }))
}

fn certificate(certificate: &eif::signature::Certificate) -> Certificate {
    let (not_before, not_after) = certificate.validity();
    Certificate {
        subject: certificate.subject(),
        issuer: certificate.issuer(),
        serial: certificate.serial(),
        not_before: not_before.to_string(),
        not_after: not_after.to_string(),
        algorithm: certificate.public_key().ok().map(|key| key.algorithm().name()),
        sha256: hex::encode(sha2::Sha256::digest(certificate.der())),
    }
}

fn kernel<S: Source>(eif: &Eif<S>, findings: &mut Vec<Finding>) -> Result<Option<Kernel>, Error> {
    let Some(section) = eif.section(Kind::Kernel) else { return Ok(None) };
    let at = section.data_offset();
    let mut head = Vec::new();
    eif.read(section).take(kernel::probe::HEAD as u64).read_to_end(&mut head)?;
    match kernel::check(&head, section.size, eif.arch()) {
        Ok(preflight) => findings.extend(
            preflight.findings.into_iter().map(|f| Finding::new(f.code, f.message, at.saturating_add(f.offset))),
        ),
        Err(kernel::Error::Arch { kernel, image }) => {
            let message = format!("the header's flag says {image}, the kernel is for {kernel}");
            findings.push(Finding::new("E-kernel-arch", message, 6));
        }
        Err(error) => findings.push(Finding::new(error.code(), error.to_string(), at)),
    }
    let Ok(format) = kernel::probe(&head) else { return Ok(Some(Kernel { format: "unknown", version: None })) };
    let version = kernel::check::release_of(&format, eif.read(section))?;
    Ok(Some(Kernel { format: format.name(), version }))
}

fn ramdisks<S: Source>(eif: &Eif<S>, findings: &mut Vec<Finding>) -> Result<(Vec<Ramdisk>, Own), Error> {
    let mut own = Own::default();
    let mut all = Vec::new();
    for (index, section) in eif.ramdisks().enumerate() {
        all.push(ramdisk(eif, section, index.saturating_add(1), &mut own, findings)?);
    }
    if let ([_], Some(section)) = (&all[..], eif.section(Kind::Ramdisk)) {
        let message =
            format!("there is one ramdisk: PCR2 is the hash of nothing, {PCR2_OF_NOTHING}, in every such file");
        findings.push(Finding::new("W-eif-single-ramdisk", message, section.offset));
    }
    Ok((all, own))
}

fn ramdisk<S: Source>(
    eif: &Eif<S>,
    section: &eif::Section,
    number: usize,
    own: &mut Own,
    findings: &mut Vec<Finding>,
) -> Result<Ramdisk, Error> {
    let (packing, mut reader) = open(eif, section)?;
    let at = section.data_offset();
    let format = packing.name();
    if let Some((code, why)) = unreadable(packing) {
        findings.push(Finding::new(code, format!("ramdisk {number} {why}"), at));
        return Ok(Ramdisk { format, entries: None, unpacked: None });
    }
    let mut need = Need::default();
    loop {
        let step = reader.next().and_then(|entry| match &entry {
            Some(found) => own.take(found, &mut reader).map(|()| entry),
            None => Ok(None),
        });
        match step {
            Ok(Some(entry)) => need.count(u64::from(entry.size)),
            Ok(None) => break,
            Err(newc::Error::Io(error)) => return Err(error.into()),
            Err(error) => {
                let inside = error.offset().filter(|_| packing == Packing::Plain).unwrap_or(0);
                let message = format!("ramdisk {number}, {error}");
                findings.push(Finding::new(error.code(), message, at.saturating_add(inside)));
                break;
            }
        }
    }
    Ok(Ramdisk { format, entries: Some(need.inodes), unpacked: Some(need.unpacked) })
}

fn unreadable(packing: Packing) -> Option<(&'static str, String)> {
    match packing {
        Packing::Foreign(name) => {
            let why = format!("is packed with {name}: only a kernel with CONFIG_RD_{} reads it", name.to_uppercase());
            Some(("W-ramdisk-format", why))
        }
        Packing::Unknown => {
            Some(("E-ramdisk-format", "is no archive and no stream that a kernel unpacks: it is dropped".to_owned()))
        }
        _ => None,
    }
}

/// What runs, if the file says so, and whether our file `process` says it.
pub(super) fn process_of<S: Source>(eif: &Eif<S>) -> Result<(Option<Process>, bool), Error> {
    let (_, own) = ramdisks(eif, &mut Vec::new())?;
    Ok((process(eif, &own, &mut Vec::new()), own.process.is_some()))
}

fn process<S: Source>(eif: &Eif<S>, own: &Own, findings: &mut Vec<Finding>) -> Option<Process> {
    let Some(bytes) = &own.process else { return from_lines(own) };
    match eif_init::process::parse(bytes) {
        Ok(process) => Some(from_process(&process)),
        Err(broken) => {
            let at = eif.ramdisks().last().map_or(0, |section| section.offset);
            findings.push(Finding::new("E-process", broken.to_string(), at));
            None
        }
    }
}

fn from_process(process: &eif_init::process::Process<'_>) -> Process {
    let texts = |items: eif_init::process::Items<'_>| items.into_iter().map(CStr::to_bytes).map(text).collect();
    Process {
        argv: texts(process.argv),
        env: texts(process.env),
        cwd: text(process.cwd.to_bytes()),
        uid: process.uid,
        gid: process.gid,
        groups: process.groups.iter().collect(),
    }
}

/// AWS's init runs what `cmd` says as root in `/`.
fn from_lines(own: &Own) -> Option<Process> {
    let lines = |bytes: &[u8]| -> Vec<String> {
        bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(text).collect()
    };
    let argv = lines(own.cmd.as_deref()?);
    let env = own.env.as_deref().map(lines).unwrap_or_default();
    Some(Process { argv, env, cwd: "/".to_owned(), uid: 0, gid: 0, groups: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_follow_codes() {
        assert_eq!(Finding::new("E-x", String::new(), 0).level, "error");
        assert_eq!(Finding::new("W-x", String::new(), 0).level, "warning");
    }

    #[test]
    fn aws_files_are_a_process_of_roots() {
        let own = Own { cmd: Some(b"/app\n-v\n".to_vec()), env: Some(b"A=1\n".to_vec()), ..Own::default() };
        let process = from_lines(&own).unwrap();
        assert_eq!((process.argv, process.env), (vec!["/app".to_owned(), "-v".to_owned()], vec!["A=1".to_owned()]));
        assert_eq!(from_lines(&Own::default()), None);
    }
}
