//! Files of anyone's: what is accepted is read alike by every door, and a file in our form is written again byte for
//! byte.

use std::io::{self, Cursor, Read, Write};

use eif::eif::{Eif, Header, Kind, Level, Measurements, Metadata, Options, Writer};
use eif::verify;

/// Where the CRC stands.
const CRC: std::ops::Range<usize> = 544..548;

/// The bytes are a file. Its CRC is put right.
pub fn eif(bytes: &[u8]) -> Option<()> {
    let mut bytes = bytes.to_vec();
    let eif = Eif::examine(&bytes[..]).ok()?;
    if let Some(crc) = eif.computed_crc() {
        bytes[CRC].copy_from_slice(&crc.to_be_bytes());
    }
    let eif = Eif::examine(&bytes[..]).expect("as before");
    let inspection = verify::inspect(&eif, 1).expect("memory does not fail");
    assert_eq!(inspection.crc_ok, eif.crc_ok());
    assert_eq!(eif.crc_ok(), eif.computed_crc().is_some(), "it was put right");
    assert!(inspection.findings.len() >= eif.faults().len());
    verify::list(&eif, verify::Listing::Text, &mut io::sink()).expect("memory does not fail");
    let _ = verify::rootfs(&eif, &mut io::sink());
    let bad = eif.faults().iter().any(|fault| fault.level() == Level::Error);
    let opened = Eif::open(&bytes[..]);
    assert_eq!(opened.is_err(), bad);
    let opened = opened.ok()?;
    assert_eq!(opened.sections().iter().map(|section| section.size + 12).sum::<u64>() + 548, bytes.len() as u64);
    let measured = opened.measure(1);
    assert_eq!(measured.as_ref().ok(), inspection.measurements.as_ref());
    let measured = measured.ok().filter(|_| is_ours(&opened))?;
    assert_eq!(rewritten(&opened, &measured), bytes);
    Some(())
}

/// Whether the file is one that our writer makes.
fn is_ours(eif: &Eif<&[u8]>) -> bool {
    let usual = Header::new(eif.arch());
    let header = eif.header();
    let kinds: Vec<Kind> = eif.sections().iter().map(|section| section.kind).collect();
    let rest = kinds.strip_prefix(&[Kind::Kernel, Kind::Cmdline, Kind::Metadata, Kind::Ramdisk]);
    let rest = rest.map(|rest| rest.strip_suffix(&[Kind::Signature]).unwrap_or(rest));
    rest.is_some_and(|rest| rest.iter().all(|kind| *kind == Kind::Ramdisk))
        && eif.faults().is_empty()
        && eif.ramdisks().all(|ramdisk| ramdisk.size.is_multiple_of(4))
        && (header.version, header.default_mem, header.default_cpus, header.reserved, header.unused)
            == (usual.version, usual.default_mem, usual.default_cpus, usual.reserved, usual.unused)
}

/// The file's parts through our writer.
fn rewritten(eif: &Eif<&[u8]>, measured: &Measurements) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: eif.arch(), threads: 1 }).expect("memory");
    for section in eif.sections() {
        let mut data = Vec::new();
        eif.read(section).read_to_end(&mut data).expect("memory");
        match section.kind {
            Kind::Kernel => writer.kernel(&mut &data[..]),
            Kind::Cmdline => writer.cmdline(&data),
            Kind::Metadata => {
                let metadata = Metadata::from_bytes(&data).expect("no fault was found");
                let again = metadata.to_bytes().expect("it was read");
                assert_eq!(Metadata::from_bytes(&again).expect("it was written"), metadata);
                writer.metadata(&data)
            }
            Kind::Ramdisk => writer.ramdisk().map(|mut ramdisk| ramdisk.write_all(&data).expect("memory")),
            _ => writer.signature(&data, measured.pcr8.expect("of a signed file")),
        }
        .expect("sections in our order");
    }
    let (out, written) = writer.finish().expect("all sections");
    assert_eq!(written.measurements, *measured);
    out.into_inner()
}
