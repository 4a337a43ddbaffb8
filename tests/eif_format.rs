//! The file format: known bytes, what is written is read, and nothing broken is taken.

use std::cell::Cell;
use std::io::{Cursor, Read, Seek, Write};

use eif::chunk::CHUNK;
use eif::eif::measure::PCR2_OF_NOTHING;
use eif::eif::{Eif, Error, Fault, Kind, Level, Measurements, Options, Source, Writer, Written};
use eif::{Arch, Refusal};
use proptest::prelude::*;

const METADATA: &[u8] = br#"{"ImageName":"n","ImageVersion":"v","BuildMetadata":{"BuildTime":"","BuildTool":"","BuildToolVersion":"","OperatingSystem":"o","KernelVersion":"k"},"DockerInfo":null,"CustomMetadata":{}}"#;

/// `(head -c 48 /dev/zero; printf 'applic\0\0' | openssl sha384 -binary) | openssl sha384` for PCR2, and so on.
const OPENSSL: [&str; 3] = [
    "b881b344f60167f2ce1b81ef28fbc7236d6c0384422d0bca15667d30e7f942cd224793631eadae879d77e3e7ac4ed69c",
    "040782f9d8e80cc66ec14385d96e4ce4ba055553aed09c44e1d208ce751d846d7193568379383b69dd62ebb0eaf051aa",
    "cd078c82ea1240c13e106a6b3292648485c6894b0d181d813e1af3f8242297776deb5cf4dc4ee638a694e325e1a85c64",
];

const ONE_THREAD: Options = Options { arch: Arch::X86_64, threads: 1 };

#[derive(Debug, Clone)]
struct Parts {
    arch: Arch,
    kernel: Vec<u8>,
    cmdline: Vec<u8>,
    ramdisks: Vec<Vec<u8>>,
}

impl Parts {
    fn small() -> Self {
        Self {
            arch: Arch::Aarch64,
            kernel: b"KERNEL".to_vec(),
            cmdline: b"reboot=k".to_vec(),
            ramdisks: vec![b"boot".to_vec(), b"applic".to_vec()],
        }
    }

    fn write(&self, threads: usize) -> (Vec<u8>, Written) {
        let mut writer = Writer::new(Cursor::new(Vec::new()), Options { arch: self.arch, threads }).unwrap();
        self.fill(&mut writer).unwrap();
        let (file, written) = writer.finish().unwrap();
        (file.into_inner(), written)
    }

    fn fill<W: Write + Seek>(&self, writer: &mut Writer<W>) -> Result<(), Error> {
        writer.kernel(&mut &self.kernel[..])?;
        writer.cmdline(&self.cmdline)?;
        writer.metadata(METADATA)?;
        for ramdisk in &self.ramdisks {
            let mut out = writer.ramdisk()?;
            // Uneven pieces: what a section is cut into must not matter.
            for piece in ramdisk.chunks(1000 + ramdisk.len() % 7) {
                out.write_all(piece).unwrap();
            }
        }
        Ok(())
    }
}

fn open(bytes: &[u8]) -> Result<Eif<&[u8]>, Error> {
    Eif::open(bytes)
}

fn data(eif: &Eif<&[u8]>, slot: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    eif.read(&eif.sections()[slot]).read_to_end(&mut bytes).unwrap();
    bytes
}

fn padded(ramdisk: &[u8]) -> Vec<u8> {
    let mut ramdisk = ramdisk.to_vec();
    ramdisk.resize(ramdisk.len().next_multiple_of(4), 0);
    ramdisk
}

/// Each range of the small file and why it has these bytes. Only the CRC is computed, by the test's own loop.
fn small_file() -> Vec<u8> {
    let mut file = Vec::new();
    let mut put = |hex: &str, times: usize| (0..times).for_each(|_| file.extend(hex::decode(hex).unwrap()));
    put("2e656966", 1); //            0 magic `.eif`
    put("0004", 1); //                4 version 4
    put("0001", 1); //                6 flags: aarch64
    put("0000000040000000", 1); //    8 default_mem 1 GiB
    put("0000000000000002", 1); //   16 default_cpus 2
    put("0000", 1); //               24 reserved
    put("0005", 1); //               26 num_sections
    put("0000000000000224", 1); //   28 kernel at 548
    put("0000000000000236", 1); //   36 cmdline at 548 + 12 + 6 = 566
    put("000000000000024a", 1); //   44 metadata at 566 + 12 + 8 = 586
    put("0000000000000310", 1); //   52 ramdisk 1 at 586 + 12 + 186 = 784
    put("0000000000000320", 1); //   60 ramdisk 2 at 784 + 12 + 4 = 800
    put("0000000000000000", 27); //  68 unused slots
    put("0000000000000006", 1); //  284 kernel
    put("0000000000000008", 1); //  292 cmdline
    put("00000000000000ba", 1); //  300 metadata, 186
    put("0000000000000004", 1); //  308 ramdisk 1
    put("0000000000000008", 1); //  316 ramdisk 2: 6, padded to 8
    put("0000000000000000", 27); // 324 unused slots
    put("00000000", 1); //          540 unused
    put("00000000", 1); //          544 the CRC, below
    put("000100000000000000000006", 1); // 548 type 1, no flags, 6 bytes
    put(&hex::encode("KERNEL"), 1); //     560
    put("000200000000000000000008", 1); // 566 type 2
    put(&hex::encode("reboot=k"), 1); //   578 no NUL at its end
    put("0005000000000000000000ba", 1); // 586 type 5
    put(&hex::encode(METADATA), 1); //     598
    put("000300000000000000000004", 1); // 784 type 3
    put(&hex::encode("boot"), 1); //       796
    put("000300000000000000000008", 1); // 800 type 3
    put(&hex::encode("applic"), 1); //     812
    put("0000", 1); //                     818 padding
    with_crc(file)
}

/// CRC-32 as ISO 3309 has it, bit by bit: a judge for the combined sums.
fn crc32<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Makes a changed file whole again, so that the change itself is judged and not the sum.
fn with_crc(mut file: Vec<u8>) -> Vec<u8> {
    let crc = crc32(file[..544].iter().chain(&file[548..]));
    file[544..548].copy_from_slice(&crc.to_be_bytes());
    file
}

fn changed(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small_file();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    with_crc(file)
}

/// What the strict reader says first, and all that the lenient one finds.
fn judged(file: &[u8]) -> (Option<&'static str>, Vec<&'static str>) {
    let first = open(file).err().map(|error| error.code());
    let all = match Eif::examine(file) {
        Ok(eif) => eif.faults().iter().map(Fault::code).collect(),
        Err(error) => vec![error.code()],
    };
    (first, all)
}

#[test]
fn the_small_file_is_known_byte_for_byte() {
    let (file, written) = Parts::small().write(1);
    assert_eq!(hex::encode(&file), hex::encode(small_file()));
    assert_eq!(written.size, 820);
    assert_eq!(written.crc32.to_be_bytes(), file[544..548]);
    assert_eq!(written.sections, open(&file).unwrap().sections());
}

#[test]
fn the_small_file_measures_to_what_openssl_says() {
    let measurements = open(&small_file()).unwrap().measure(1).unwrap();
    assert_eq!(measurements, Parts::small().write(1).1.measurements);
    let found = [measurements.pcr0, measurements.pcr1, measurements.pcr2].map(|pcr| pcr.to_string());
    assert_eq!(found, OPENSSL);
}

#[test]
fn one_ramdisk_has_the_known_pcr2() {
    let parts = Parts { ramdisks: vec![b"boot".to_vec()], ..Parts::small() };
    let measurements = parts.write(2).1.measurements;
    assert_eq!(measurements.pcr2.to_string(), PCR2_OF_NOTHING);
    assert_eq!(measurements.pcr0, measurements.pcr1);
}

#[test]
fn contents_are_read_back_without_a_fault() {
    let file = small_file();
    let eif = open(&file).unwrap();
    assert_eq!(eif.faults(), []);
    assert_eq!(eif.arch(), Arch::Aarch64);
    assert_eq!(eif.cmdline().unwrap(), b"reboot=k");
    assert_eq!(eif.metadata().unwrap().unwrap().image_name, "n");
    assert_eq!(eif.signature().unwrap(), None);
    assert_eq!(eif.ramdisks().count(), 2);
    assert!(eif.crc_ok());
}

/// Every single-bit change and one whole-byte change at each place of the file.
#[test]
fn every_byte_is_guarded() {
    let file = small_file();
    for at in 0..file.len() {
        for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut changed = file.clone();
            changed[at] ^= mask;
            assert!(open(&changed).is_err(), "byte {at} ^ {mask:#x} was not seen");
        }
    }
}

#[test]
fn every_cut_is_seen() {
    let file = small_file();
    for length in 0..file.len() {
        let error = open(&file[..length]).unwrap_err();
        let expected = match length {
            0..4 => "E-eif-magic",
            4..548 => "E-eif-short",
            _ => "E-eif-bounds",
        };
        assert_eq!(error.code(), expected, "cut to {length}: {error}");
    }
    let longer = [&file[..], b"!"].concat();
    assert_eq!(open(&longer).unwrap_err().code(), "E-eif-trailing");
}

/// Each check by a file whose sum is right: the sum is no substitute for it.
#[test]
fn each_fault_has_its_code() {
    let cases: [(&str, Vec<u8>); 17] = [
        ("E-eif-magic", changed(3, b"g")),
        ("E-eif-version", changed(4, &[0, 3])),
        ("W-eif-version", changed(4, &[0, 5])),
        ("E-eif-flags", changed(6, &[0, 2])),
        ("W-eif-reserved", changed(24, &[0, 1])),
        ("W-eif-reserved", changed(68, &[1])),
        ("W-eif-reserved", changed(540, &[1])),
        ("E-eif-count", changed(26, &[0, 33])),
        ("E-eif-count", changed(26, &[0, 0])),
        ("E-eif-bounds", changed(28, &u64::MAX.to_be_bytes())),
        ("E-eif-bounds", changed(804, &i64::MAX.to_be_bytes())),
        ("E-eif-size", changed(284, &7u64.to_be_bytes())),
        ("E-eif-section-flags", changed(550, &[0, 1])),
        ("E-eif-type", changed(784, &[0, 9])),
        ("E-eif-missing", changed(548, &[0, 5])),
        ("E-eif-duplicate", changed(566, &[0, 1])),
        ("E-eif-overlap", changed(60, &784u64.to_be_bytes())),
    ];
    for (code, file) in cases {
        let (first, codes) = judged(&file);
        assert!(codes.contains(&code), "{code} is not among {codes:?}");
        assert_eq!(first.is_some(), codes.iter().any(|code| code.starts_with("E-")), "{code}: {first:?} {codes:?}");
    }
}

#[test]
fn contents_are_judged() {
    assert_eq!(judged(&changed(598, b"[")), (Some("E-eif-metadata"), vec!["E-eif-metadata"]));
    assert_eq!(judged(&changed(580, b"\n")), (None, vec!["W-eif-cmdline"]));
}

/// Sections that share bytes are neither summed nor measured: 32 of them could each be as large as the file.
#[test]
fn one_shared_byte_is_an_overlap() {
    let mut file = small_file();
    file[67] = 0x1f; // ramdisk 2 begins a byte earlier
    file.remove(799); // the last byte of ramdisk 1
    assert!(judged(&file).1.contains(&"E-eif-overlap"));
    let eif = Eif::examine(&file[..]).unwrap();
    assert_eq!(eif.computed_crc(), None);
    assert_eq!(eif.measure(1).unwrap_err().code(), "E-eif-overlap");
}

/// AWS's builder does not pad: its file is read, and the kernel's trouble with it is told.
#[test]
fn an_unpadded_ramdisk_is_a_warning_only_before_another() {
    let mut file = small_file();
    file[315] = 3; // ramdisk 1 in the header's table
    file[67] = 0x1f; // ramdisk 2 begins a byte earlier
    file[795] = 3; // the size in ramdisk 1's own header
    file.remove(799);
    assert_eq!(judged(&with_crc(file)), (None, vec!["W-eif-unpadded"]));
    let mut last = small_file();
    (last[323], last[811]) = (7, 7);
    last.pop();
    assert_eq!(judged(&with_crc(last)), (None, vec![]));
}

#[test]
fn the_sum_of_a_file_with_gaps_is_that_of_its_sections() {
    let mut gap = small_file();
    gap[60..68].copy_from_slice(&816u64.to_be_bytes());
    let mut gap = with_crc(gap);
    gap.splice(800..800, [0xaa; 16]);
    let eif = Eif::examine(&gap[..]).unwrap();
    assert!(eif.crc_ok(), "QEMU takes such a file");
    assert_eq!(judged(&gap), (Some("E-eif-gap"), vec!["E-eif-gap"]));
    assert_eq!(eif.measure(1).unwrap(), open(&small_file()).unwrap().measure(1).unwrap());
}

#[test]
fn a_claim_beyond_the_file_is_told_in_numbers() {
    let mut file = small_file();
    file[804..812].copy_from_slice(&i64::MAX.to_be_bytes());
    // Header and section header disagree as well; the strict reader says what it meets first.
    let first = "section 4 (ramdisk) has 9223372036854775807 bytes, the file header says 8";
    assert_eq!(open(&file).unwrap_err().to_string(), first);
    file[316..324].copy_from_slice(&i64::MAX.to_be_bytes());
    let only = "section 4 (ramdisk) claims 9223372036854775807 bytes at offset 0x320, the file has 820";
    assert_eq!(open(&file).unwrap_err().to_string(), only);
}

/// Two files that AWS's library and QEMU would measure differently, or not as PCR0 is defined.
#[test]
fn an_order_that_changes_the_measurement_is_refused() {
    // The two ramdisks change places in the tables: QEMU would boot the application first.
    let mut swapped = small_file();
    swapped[52..68].rotate_left(8);
    swapped[308..324].rotate_left(8);
    let swapped = with_crc(swapped);
    assert_eq!(judged(&swapped), (Some("E-eif-table-order"), vec!["E-eif-table-order"]));
    assert_eq!(Eif::examine(&swapped[..]).unwrap().measure(1).unwrap_err().code(), "E-eif-table-order");
    // Kernel and cmdline change their types: cmdline first.
    let mut late = small_file();
    (late[549], late[567]) = (2, 1);
    assert_eq!(judged(&with_crc(late)).0, Some("E-eif-order"));
}

#[test]
fn sections_out_of_order_are_not_written() {
    let mut writer = Writer::without_file(ONE_THREAD).unwrap();
    assert_eq!(writer.cmdline(b"x").unwrap_err().to_string(), "a cmdline section cannot stand at the start");
    writer.kernel(&mut &b"k"[..]).unwrap();
    assert_eq!(writer.ramdisk().unwrap_err().to_string(), "a ramdisk section cannot stand behind a kernel section");
    assert_eq!(writer.finish().unwrap_err().code(), "E-eif-missing");
}

#[test]
fn nothing_follows_the_measurements_but_a_signature() {
    let mut writer = Writer::without_file(Options { arch: Arch::X86_64, threads: 2 }).unwrap();
    Parts::small().fill(&mut writer).unwrap();
    let measured = writer.measurements().unwrap();
    assert_eq!(measured, Parts::small().write(1).1.measurements);
    assert_eq!(writer.ramdisk().unwrap_err().code(), "E-eif-order");
    writer.signature(b"\x80", measured.pcr0).unwrap();
    let (_, written) = writer.finish().unwrap();
    assert_eq!(written.measurements, Measurements { pcr8: Some(measured.pcr0), ..measured });
    assert_eq!(written.sections.last().unwrap().kind, Kind::Signature);
}

#[test]
fn a_command_line_is_one_line() {
    for (cmdline, words) in [(&b"a\nb"[..], "a newline at byte 1"), (b"ab\0", "a NUL at byte 2")] {
        let mut writer = Writer::without_file(ONE_THREAD).unwrap();
        writer.kernel(&mut &b"k"[..]).unwrap();
        assert_eq!(writer.cmdline(cmdline).unwrap_err().to_string(), format!("the kernel command line has {words}"));
    }
}

#[test]
fn thirty_two_sections_are_the_most() {
    let mut parts = Parts { ramdisks: vec![b"ramdisk1".to_vec(); 29], ..Parts::small() };
    let (file, written) = parts.write(1);
    assert_eq!(written.sections.len(), 32);
    assert_eq!(open(&file).unwrap().faults(), []);
    parts.ramdisks.push(Vec::new());
    let error = parts.fill(&mut Writer::without_file(ONE_THREAD).unwrap()).unwrap_err();
    assert_eq!(error.code(), "E-eif-count");
    assert_eq!(error.to_string(), "section 32 (ramdisk): an .eif holds 32 sections");
}

#[test]
fn a_full_disk_is_an_error() {
    let mut small = [0; 600];
    let mut writer = Writer::new(Cursor::new(&mut small[..]), ONE_THREAD).unwrap();
    writer.kernel(&mut &[7; 100][..]).unwrap();
    assert_eq!(writer.cmdline(b"x").unwrap_err().code(), "E-eif-io");
}

/// A file of many gigabytes that is not there: `head`, then zeros. It remembers the largest buffer that it was given.
struct Giant {
    head: Vec<u8>,
    size: u64,
    largest: Cell<usize>,
}

impl Giant {
    /// The small file with the last section as the given kind, of so many bytes that the file has `size`.
    fn new(kind: u16, size: u64) -> Self {
        let mut head = small_file();
        let section = size - 812;
        head[316..324].copy_from_slice(&section.to_be_bytes());
        head[800..802].copy_from_slice(&kind.to_be_bytes());
        head[804..812].copy_from_slice(&section.to_be_bytes());
        let mut crc = crc32fast::Hasher::new();
        head[..544].iter().chain(&head[548..]).for_each(|byte| crc.update(&[*byte]));
        let mut zeros = size - head.len() as u64;
        while zeros > 0 {
            let part = zeros.min(1 << 20);
            crc.update(&vec![0; part as usize]);
            zeros -= part;
        }
        head[544..548].copy_from_slice(&crc.finalize().to_be_bytes());
        Self { head, size, largest: Cell::new(0) }
    }
}

impl Source for Giant {
    fn size(&self) -> std::io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.largest.set(self.largest.get().max(buffer.len()));
        if offset < self.head.len() as u64 {
            return Source::read_at(&self.head[..], buffer, offset);
        }
        let there = buffer.len().min((self.size - offset) as usize);
        buffer[..there].fill(0);
        Ok(there)
    }
}

/// Sizes beyond 32 bits, and no buffer larger than a chunk.
#[test]
fn a_giant_is_read_in_bounded_memory() {
    let giant = Giant::new(3, 5 << 30);
    let eif = Eif::open(&giant).unwrap();
    assert_eq!(eif.ramdisks().last().unwrap().size, (5 << 30) - 812);
    assert!(giant.largest.get() <= CHUNK, "a buffer of {} bytes", giant.largest.get());
}

/// What is read into memory has a limit of its own, whatever the file's size allows.
#[test]
fn giant_texts_are_not_read() {
    for (kind, slot) in [(2u16, 566), (4, 0), (5, 586)] {
        let mut giant = Giant::new(kind, 1 << 30);
        if slot != 0 {
            // The small section of that kind becomes one without a meaning: the giant is the only one.
            giant.head[slot..slot + 2].copy_from_slice(&[0, 9]);
        }
        let eif = Eif::examine(&giant).unwrap();
        let codes: Vec<_> = eif.faults().iter().map(Fault::code).collect();
        assert!(codes.contains(&"E-eif-limit"), "type {kind}: {codes:?}");
        assert!(giant.largest.get() <= CHUNK, "type {kind}: a buffer of {} bytes", giant.largest.get());
    }
}

/// Bytes that follow the last section are not read, however many there are.
#[test]
fn a_sparse_giant_is_refused_at_once() {
    let file = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &small_file(), 0).unwrap();
    file.set_len(100 << 30).unwrap();
    assert_eq!(Eif::open(file).unwrap_err().code(), "E-eif-trailing");
}

fn parts() -> impl Strategy<Value = Parts> {
    let bytes = |most| prop::collection::vec(any::<u8>(), 0..most);
    let large = (any::<u8>(), 0..700_000usize).prop_map(|(seed, size)| {
        (0..size).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
    });
    let ramdisk = prop_oneof![4 => bytes(40), 1 => large];
    let cmdline = bytes(60).prop_map(|mut line| {
        line.iter_mut().filter(|byte| matches!(byte, 0 | b'\n')).for_each(|byte| *byte = b' ');
        line
    });
    let arch = prop_oneof![Just(Arch::X86_64), Just(Arch::Aarch64)];
    (arch, bytes(5000), cmdline, prop::collection::vec(ramdisk, 1..6))
        .prop_map(|(arch, kernel, cmdline, ramdisks)| Parts { arch, kernel, cmdline, ramdisks })
}

/// Every method that reads, on a file of which nothing is known.
fn read_all(bytes: &[u8]) {
    let Ok(eif) = Eif::examine(bytes) else { return };
    assert!(eif.faults().len() < 400);
    for fault in eif.faults() {
        assert!(!fault.to_string().is_empty() && !fault.help().is_empty());
        assert_eq!(fault.level() == Level::Error, fault.code().starts_with('E'));
    }
    for section in eif.sections() {
        assert!(section.end() <= bytes.len() as u64);
        let mut sink = Vec::new();
        eif.read(section).read_to_end(&mut sink).unwrap();
        assert_eq!(sink.len() as u64, section.size);
    }
    let _ = (eif.cmdline().is_ok(), eif.metadata().is_ok(), eif.signature().is_ok(), eif.measure(1).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_what_is_written_is_read(parts in parts()) {
        let (file, written) = parts.write(1);
        let eif = open(&file).unwrap();
        prop_assert_eq!(eif.faults(), []);
        prop_assert_eq!(eif.arch(), parts.arch);
        prop_assert_eq!(eif.sections(), &written.sections[..]);
        prop_assert_eq!(eif.size(), written.size);
        prop_assert_eq!(data(&eif, 0), parts.kernel);
        prop_assert_eq!(data(&eif, 1), parts.cmdline);
        prop_assert_eq!(data(&eif, 2), METADATA);
        for (slot, ramdisk) in (3..).zip(&parts.ramdisks) {
            prop_assert_eq!(data(&eif, slot), padded(ramdisk));
        }
        prop_assert_eq!(eif.measure(2).unwrap(), written.measurements);
    }

    #[test]
    fn prop_threads_change_nothing(parts in parts(), threads in 2..5usize) {
        prop_assert_eq!(parts.write(1), parts.write(threads));
    }

    #[test]
    fn prop_without_a_file_the_measurements_are_the_same(parts in parts()) {
        let mut writer = Writer::without_file(Options { arch: parts.arch, threads: 1 }).unwrap();
        parts.fill(&mut writer).unwrap();
        prop_assert_eq!(writer.finish().unwrap().1, parts.write(1).1);
    }

    #[test]
    fn prop_a_changed_byte_is_seen(parts in parts(), at in any::<prop::sample::Index>(), mask in 1..=255u8) {
        let mut file = parts.write(1).0;
        let at = at.index(file.len());
        file[at] ^= mask;
        prop_assert!(open(&file).is_err());
    }

    #[test]
    fn prop_a_cut_file_is_refused(parts in parts(), length in any::<prop::sample::Index>()) {
        let file = parts.write(1).0;
        prop_assert!(open(&file[..length.index(file.len())]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn prop_random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
        read_all(&bytes);
        read_all(&[b".eif", &bytes[..]].concat());
    }

    /// Random bytes stop at the first check: so a right file gets a few wrong fields.
    #[test]
    fn prop_wrong_fields_are_survived(changes in prop::collection::vec((0..820usize, any::<u8>()), 1..12)) {
        let mut file = small_file();
        changes.iter().for_each(|(at, value)| file[*at] = *value);
        read_all(&file);
        read_all(&with_crc(file));
    }

    /// Offsets, sizes and types that overlap, repeat and stand in any order.
    #[test]
    fn prop_wild_tables_are_survived(
        slots in prop::collection::vec((500..900u64, 0..400u64, 0..7u16), 0..40),
        count in 0..40u16,
    ) {
        let mut file = small_file();
        file[26..28].copy_from_slice(&count.to_be_bytes());
        for (slot, (offset, size, kind)) in slots.iter().take(32).enumerate() {
            file[28 + 8 * slot..36 + 8 * slot].copy_from_slice(&offset.to_be_bytes());
            file[284 + 8 * slot..292 + 8 * slot].copy_from_slice(&size.to_be_bytes());
            let at = *offset as usize;
            if at >= 548 && at + 12 <= file.len() {
                file[at..at + 2].copy_from_slice(&kind.to_be_bytes());
                file[at + 4..at + 12].copy_from_slice(&size.to_be_bytes());
            }
        }
        read_all(&file);
        read_all(&with_crc(file));
    }
}
