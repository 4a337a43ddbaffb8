//! What a file measures to: the values that the hypervisor puts into PCR0, PCR1, PCR2 and PCR8, and those of PCR3 and
//! PCR4, which depend on the parent.
//!
//! With `ext(x) = SHA384(48 zero bytes ‖ SHA384(x))`:
//!
//! | register | value |
//! |---|---|
//! | PCR0 | `ext(kernel ‖ cmdline ‖ ramdisk 1 ‖ ramdisk 2 ‖ …)` |
//! | PCR1 | `ext(kernel ‖ cmdline ‖ ramdisk 1)` |
//! | PCR2 | `ext(ramdisk 2 ‖ …)`; with one ramdisk the hash of nothing, [`PCR2_OF_NOTHING`] |
//! | PCR3 | `SHA384(48 zero bytes ‖ role ARN)` |
//! | PCR4 | `SHA384(48 zero bytes ‖ instance id)` |
//! | PCR8 | `ext(DER of the signing certificate)` |
//!
//! No length enters a hash: bytes that move from the end of one section to the front of the next keep PCR0.
//! Source of the facts: `get_pcrs` and `EifHasher` of AWS's `aws-nitro-enclaves-image-format` 0.8; the user guide of
//! Nitro Enclaves, "Cryptographic attestation", for PCR3 and PCR4.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::io::Read;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

pub use eif_sha384::{SIZE, Sha384};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::chunk::{self, Chunk};
use crate::crew::{Board, Crew};

/// PCR2 of every file with exactly one ramdisk: it says nothing about the application.
pub const PCR2_OF_NOTHING: &str =
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a";

/// What AWS's documents and published files have as `HashAlgorithm`.
pub const HASH_ALGORITHM: &str = "Sha384 { ... }";

/// How many chunks may wait for a hash before the thread that feeds takes part.
const QUEUE: usize = 8;

/// The value of one register. Prints as 96 lower-case hexadecimal digits and is read from such, of either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcr(pub [u8; SIZE]);

impl Pcr {
    /// A register that was zero, extended with `bytes` as they are.
    fn extended_with(bytes: &[u8]) -> Self {
        let mut hash = Sha384::new();
        hash.update(&[0; SIZE]);
        hash.update(bytes);
        Self(hash.finish())
    }

    /// A register that was zero, extended with the digest of what `hash` has seen.
    fn of(hash: Sha384) -> Self {
        Self::extended_with(&hash.finish())
    }

    /// `ext` of all that `reader` gives: what `nitro-cli pcr --input` prints.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<Self> {
        let mut hash = Sha384::new();
        chunk::each(reader, |bytes| hash.update(bytes))?;
        Ok(Self::of(hash))
    }

    /// PCR8 of a file signed with this certificate (DER).
    pub fn of_certificate(der: &[u8]) -> Self {
        let mut hash = Sha384::new();
        hash.update(der);
        Self::of(hash)
    }

    /// PCR3 of every enclave whose parent has this IAM role (`arn:aws:iam::…`).
    pub fn of_role(arn: &str) -> Self {
        Self::extended_with(arn.as_bytes())
    }

    /// PCR4 of every enclave on this parent instance (`i-…`).
    pub fn of_instance(id: &str) -> Self {
        Self::extended_with(id.as_bytes())
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pcr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut value = [0; SIZE];
        hex::decode_to_slice(text, &mut value).map_err(|_| {
            format!("a PCR is 96 hexadecimal digits, this has {} characters: {text}", text.chars().count())
        })?;
        Ok(Self(value))
    }
}

impl Serialize for Pcr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pcr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The registers that follow from a file alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurements {
    /// The whole image.
    pub pcr0: Pcr,
    /// What boots: kernel, command line, ramdisk 1.
    pub pcr1: Pcr,
    /// The application: ramdisks 2 and on.
    pub pcr2: Pcr,
    /// The signing certificate, of a signed file.
    pub pcr8: Option<Pcr>,
}

impl Measurements {
    /// Names and values, in nitro-cli's order.
    pub fn named(&self) -> Vec<(&'static str, Pcr)> {
        let mut named = vec![("PCR0", self.pcr0), ("PCR1", self.pcr1), ("PCR2", self.pcr2)];
        named.extend(self.pcr8.map(|pcr8| ("PCR8", pcr8)));
        named
    }

    /// The same by index.
    pub fn numbered(&self) -> Vec<(u8, Pcr)> {
        let mut numbered = vec![(0, self.pcr0), (1, self.pcr1), (2, self.pcr2)];
        numbered.extend(self.pcr8.map(|pcr8| (8, pcr8)));
        numbered
    }

    /// nitro-cli's object, `{"Measurements": {…}}`, two-space pretty, without a newline at the end.
    pub fn to_json(&self) -> String {
        let object = Envelope { measurements: self };
        // A struct of strings always serialises.
        serde_json::to_string_pretty(&object).unwrap_or_default()
    }
}

impl Serialize for Measurements {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("HashAlgorithm", HASH_ALGORITHM)?;
        for (name, value) in self.named() {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "Measurements")]
    measurements: &'a Measurements,
}

/// Which registers some bytes of a file go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Kernel, command line and the first ramdisk: PCR0 and PCR1.
    Boot,
    /// All other ramdisks: PCR0 and PCR2.
    Application,
}

/// A hash of all chunks that came, and one of those of the boot part. They are one until the first byte of the
/// application: the second is forked there, and has a state of its own for files that have a boot part behind an
/// application part. That of PCR2 gets no boot part, and its second one is of nothing.
#[derive(Debug, Default)]
struct Hash {
    all: Sha384,
    boot: Option<Sha384>,
}

impl Hash {
    fn update(&mut self, part: Part, bytes: &[u8]) {
        match (part, &mut self.boot) {
            (Part::Application, None) => self.boot = Some(self.all.clone()),
            (Part::Boot, Some(boot)) => boot.update(bytes),
            _ => {}
        }
        self.all.update(bytes);
    }
}

/// Measures a file whose parts come in file order. Both hashes are computed by whoever has time: threads that do nothing
/// else, and the one that feeds, as soon as enough chunks wait.
#[derive(Debug)]
pub struct Measurer {
    crew: Arc<Crew<Hashes>>,
    helpers: Vec<JoinHandle<()>>,
}

impl Measurer {
    /// For so many `threads` with the one that feeds: more than three have nothing to do. The values are the same.
    pub fn new(threads: usize) -> Self {
        let crew = Arc::new(Crew::new(Hashes::default()));
        let start = |_| {
            let crew = Arc::clone(&crew);
            let help = move || drop(crew.board().until(|hashes| hashes.ended && hashes.waiting() == 0, Hashes::take));
            Builder::new().name("eif-pcr".to_owned()).spawn(help).ok()
        };
        let helpers = (1..threads.min(3)).map_while(start).collect();
        Self { crew, helpers }
    }

    /// Adds a chunk, and leaves an empty one in its place.
    pub fn feed(&mut self, part: Part, chunk: &mut Chunk) {
        let mut hashes = self.crew.board();
        let empty = hashes.spare.pop().unwrap_or_default();
        hashes.add(part, std::mem::replace(chunk, empty));
        self.crew.wake();
        let most = if self.helpers.is_empty() { 0 } else { QUEUE };
        hashes.until(|hashes| hashes.waiting() <= most, Hashes::take);
    }

    /// PCR0, PCR1 and PCR2 of all chunks.
    pub fn finish(mut self) -> Measurements {
        drop(self.crew.board().until(|hashes| hashes.waiting() == 0, Hashes::take));
        self.end();
        for helper in self.helpers.drain(..) {
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        let [image, application] =
            std::mem::take(&mut self.crew.board().lanes).map(|lane| lane.hash.unwrap_or_default());
        let pcr1 = image.boot.unwrap_or_else(|| image.all.clone());
        let [pcr0, pcr1, pcr2] = [image.all, pcr1, application.all].map(Pcr::of);
        Measurements { pcr0, pcr1, pcr2, pcr8: None }
    }

    fn end(&self) {
        self.crew.board().ended = true;
        self.crew.wake();
    }
}

impl Drop for Measurer {
    /// The helpers of a file that is given up end, too.
    fn drop(&mut self) {
        self.end();
    }
}

/// What is to be hashed.
#[derive(Debug, Default)]
struct Hashes {
    /// That of all chunks, and that of the application's.
    lanes: [Lane; 2],
    /// Chunks that both have seen.
    spare: Vec<Chunk>,
    /// Nothing is added any more.
    ended: bool,
}

/// A hash, and what it has not seen.
#[derive(Debug)]
struct Lane {
    /// Nothing while somebody has it.
    hash: Option<Hash>,
    waiting: VecDeque<(Part, Arc<Chunk>)>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { hash: Some(Hash::default()), waiting: VecDeque::new() }
    }
}

/// One chunk for one hash.
#[derive(Debug)]
struct Job {
    lane: usize,
    hash: Hash,
    part: Part,
    chunk: Arc<Chunk>,
}

impl Hashes {
    fn add(&mut self, part: Part, chunk: Chunk) {
        let [image, application] = &mut self.lanes;
        let chunk = Arc::new(chunk);
        if part == Part::Application {
            application.waiting.push_back((part, Arc::clone(&chunk)));
        }
        image.waiting.push_back((part, chunk));
    }

    /// Chunks that wait for the hash that has most before it.
    fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).max().unwrap_or(0)
    }

    /// The next chunk for the hash that has most before it, of those that nobody has.
    fn take(&mut self) -> Option<Job> {
        let free = self.lanes.iter_mut().enumerate().filter(|(_, lane)| lane.hash.is_some());
        let (number, lane) = free.max_by_key(|(_, lane)| lane.waiting.len())?;
        let (part, chunk) = lane.waiting.pop_front()?;
        Some(Job { lane: number, hash: lane.hash.take()?, part, chunk })
    }
}

impl Board for Hashes {
    type Job = Job;
    type Rest = ();

    fn work(job: &mut Job) {
        job.hash.update(job.part, &job.chunk);
    }

    fn put_back(&mut self, Job { lane, hash, chunk, .. }: Job) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.hash = Some(hash);
        }
        if let Some(mut chunk) = Arc::into_inner(chunk) {
            chunk.clear();
            self.spare.push(chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::CHUNK;

    /// The two examples of AWS's user guide, "Cryptographic attestation".
    #[test]
    fn role_and_instance_are_the_user_guides() {
        assert_eq!(
            Pcr::of_role("arn:aws:iam::123456789012:role/Webserver").to_string(),
            "78fce75db17cd4e0a3fb8dad3ad128ca5e77edbb2b2c7f75329dccd99aa5f6ef4fc1f1a452e315b9e98f9e312e6921e6"
        );
        assert_eq!(
            Pcr::of_instance("i-1234567890abcdef0").to_string(),
            "08f996b5d43e047a9eb51e7f548bfee7e164fd7dc8f65541f2ac09d6545ac812719327281c401a67a10fcba87ae79ce0"
        );
    }

    fn measure(threads: usize, parts: &[(Part, &[u8])]) -> Measurements {
        let mut measurer = Measurer::new(threads);
        for (part, bytes) in parts {
            let mut chunk = Chunk::new();
            assert_eq!(chunk.push(bytes), bytes.len());
            measurer.feed(*part, &mut chunk);
            assert!(chunk.is_empty());
        }
        measurer.finish()
    }

    #[test]
    fn nothing_measures_to_the_known_constant() {
        let nothing = measure(1, &[(Part::Boot, b"kernel")]);
        assert_eq!(nothing.pcr2.to_string(), PCR2_OF_NOTHING);
        assert_eq!(nothing.pcr0, nothing.pcr1);
    }

    #[test]
    fn a_boot_part_behind_the_application_still_counts_for_pcr1() {
        for threads in [1, 2, 3] {
            let odd = measure(threads, &[(Part::Boot, b"k"), (Part::Application, b"app"), (Part::Boot, b"c")]);
            assert_eq!(odd.pcr1, Pcr::of_certificate(b"kc"));
            assert_eq!(odd.pcr0, Pcr::of_certificate(b"kappc"));
            assert_eq!(odd.pcr2, Pcr::of_certificate(b"app"));
        }
    }

    #[test]
    fn buffers_come_back() {
        let mut measurer = Measurer::new(2);
        let mut chunk = Chunk::new();
        for round in 0..100 {
            chunk.fill(&mut io::repeat(round), CHUNK).unwrap();
            measurer.feed(Part::Application, &mut chunk);
            assert!(chunk.is_empty());
        }
        let hashes = measurer.crew.board().until(|hashes| hashes.waiting() == 0, Hashes::take);
        assert!(hashes.spare.len() <= QUEUE + 4, "{} buffers", hashes.spare.len());
    }

    #[test]
    fn json_is_nitro_clis() {
        let zero = Pcr([0; SIZE]);
        let measurements = Measurements { pcr0: zero, pcr1: zero, pcr2: zero, pcr8: Some(zero) };
        let digits = "0".repeat(96);
        assert_eq!(
            measurements.to_json(),
            format!(
                "{{\n  \"Measurements\": {{\n    \"HashAlgorithm\": \"Sha384 {{ ... }}\",\n    \"PCR0\": \"{digits}\",\n    \
                 \"PCR1\": \"{digits}\",\n    \"PCR2\": \"{digits}\",\n    \"PCR8\": \"{digits}\"\n  }}\n}}"
            )
        );
    }

    #[test]
    fn a_pcr_is_read_in_either_case_and_nothing_else() {
        let pcr: Pcr = PCR2_OF_NOTHING.to_uppercase().parse().unwrap();
        assert_eq!(pcr.to_string(), PCR2_OF_NOTHING);
        assert!("12".parse::<Pcr>().is_err());
        assert!("g".repeat(96).parse::<Pcr>().is_err());
    }
}
