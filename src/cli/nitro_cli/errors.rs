//! Failures in nitro-cli's words: its table of codes, the block on stderr, and the exit code, which is the code's number.
//!
//! Codes, titles, the sentences with arguments and the order of the block are nitro-cli 1.5.0's; scripts look for them.
//! Its log directory has no part in this: nothing is written there, and the line that names the log is left out, as
//! nitro-cli itself does where it cannot write one.

use std::fmt::Write as _;
use std::panic::Location;
use std::path::Path;
use std::process::ExitCode;

use crate::cli::environment;
use crate::cli::failure::Failure;
use crate::cli::ui::Ui;

/// Where AWS explains the codes.
const HELP: &str = "https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html";

/// Title and explanation of E00, E01, …
const TABLE: [(&str, &str); 60] = [
    ("Unspecified error", "Nothing is known of the cause. It has exit code 0 in nitro-cli and is never given here."),
    ("Missing mandatory argument", "An argument that the command needs is not there, such as --memory of run-enclave."),
    ("Conflicting arguments", "Two arguments exclude each other, such as --cpu-count and --cpu-ids."),
    ("Invalid argument provided", "The value of an argument is not of its kind, such as a number with letters in it."),
    ("Socket pair creation failure", "The command and the process of the enclave got no way to talk to each other."),
    ("Process spawn failure", "The process that holds the enclave could not be started."),
    ("Daemonize process failure", "The process that holds the enclave could not be detached from the terminal."),
    ("Read from disk failure", "The folder that lists the running enclaves cannot be read: look at its permissions."),
    ("Unusable connection error", "The enclave is not there any more, or never was."),
    ("Socket close error", "A connection could not be closed."),
    ("Socket connect set timeout error", "No time limit could be set for a connection to a console."),
    ("Socket error", "A connection between the command and the process of the enclave failed."),
    ("Epoll error", "The end of an enclave cannot be waited for."),
    ("Inotify error", "A socket cannot be watched."),
    ("Invalid command", "The process of an enclave got a command that it does not know."),
    ("Lock acquire failure", "What is known of an enclave is locked by somebody who does not let go."),
    ("Thread join failure", "A part of the program did not end as it should."),
    (
        "Serde error",
        "A JSON or CBOR object is not of the form that is needed, such as the one of run-enclave --config.",
    ),
    ("File permissions error", "The permissions of a file cannot be changed."),
    ("File operation failure", "A file cannot be opened, read or written; the line below names it."),
    ("Invalid CPU configuration", "--cpu-ids names a CPU twice."),
    (
        "No such CPU available in the pool",
        "--cpu-ids names a CPU that is not set aside for enclaves: see cpu_pool in /etc/nitro_enclaves/allocator.yaml.",
    ),
    (
        "Insufficient CPUs available in the pool",
        "More CPUs are asked for than are set aside for enclaves: see cpu_count in /etc/nitro_enclaves/allocator.yaml.",
    ),
    ("Malformed CPU ID error", "The list of CPUs that the kernel gives cannot be read."),
    ("CPU error", "A range of CPUs is none, such as 0-3-7."),
    ("No such hugepage flag error", "A size of huge pages that the kernel does not have."),
    (
        "Insufficient memory requested",
        "--memory is less than the enclave takes: nitro-cli asks for four times the size of the file at least.",
    ),
    (
        "Insufficient memory available",
        "--memory is more than the huge pages that are set aside for enclaves: see memory_mib in \
         /etc/nitro_enclaves/allocator.yaml.",
    ),
    ("Invalid enclave descriptor", "The driver made no enclave (NE_CREATE_VM)."),
    ("Ioctl failure", "The driver refused something; the cause says what."),
    ("Ioctl image get load info failure", "The driver did not say where the file belongs (NE_GET_IMAGE_LOAD_INFO)."),
    ("Ioctl set memory region failure", "The driver did not take some memory (NE_SET_USER_MEMORY_REGION)."),
    ("Ioctl add vCPU failure", "The driver did not give a CPU (NE_ADD_VCPU)."),
    ("Ioctl start enclave failure", "The driver did not start the enclave (NE_START_ENCLAVE)."),
    ("Memory overflow", "The file does not fit into the memory at the place where it belongs."),
    ("EIF file parsing error", "The file is no enclave image, or is damaged: `eif inspect FILE` lists what is wrong."),
    (
        "Enclave boot failure",
        "The enclave did not send its heartbeat in time, or ended before it. Run it with --debug-mode and look at its \
         console.",
    ),
    ("Enclave event wait error", "The end of an enclave cannot be waited for."),
    ("Enclave process command not executed", "The process of an enclave did not do what it was told."),
    ("Enclave process connection failure", "The process of an enclave does not answer, or there is no such enclave."),
    ("Socket path not found", "An enclave ID is not of the form i-…-enc…."),
    ("Enclave process send reply failure", "The process of an enclave could not answer."),
    ("Enclave mmap error", "Memory for the enclave could not be had."),
    ("Enclave munmap error", "Memory of the enclave could not be given back."),
    (
        "Enclave console connection failure",
        "The console cannot be had: only enclaves that were started with --debug-mode have one.",
    ),
    ("Enclave console read error", "The console broke off."),
    ("Enclave console write output error", "What the console says could not be written to stdout."),
    ("Integer parsing error", "The CID of an enclave is no number."),
    ("EIF building error", "The image cannot be made an enclave image; the cause says why."),
    ("Docker image build error", "`docker build` failed on the folder of --docker-dir."),
    ("Docker image pull error", "The container image is neither in the Docker engine here nor to be had elsewhere."),
    ("Artifacts path environment variable not set", "Never given here: no artifacts are kept."),
    ("Blobs path environment variable not set", "Never given here: eif brings its own kernel and init."),
    ("Clock skew error", "The clock went backwards while a console was read."),
    ("Signal masking error", "Signals could not be held back."),
    ("Signal unmasking error", "Signals could not be let through again."),
    ("Logger error", "Never given here: there is no log."),
    ("Hasher error", "What was to be measured is not of its kind, such as a certificate that is none."),
    ("Naming error", "No enclave has the name, or several have it."),
    (
        "EIF signature checker error",
        "The signature of the file is not one of its certificate, or the certificate is not valid now.",
    ),
];

/// The codes that are given here; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "enclaves run on Linux"))]
pub enum Code {
    MissingArgument = 1,
    ConflictingArguments = 2,
    InvalidArgument = 3,
    ProcessSpawn = 5,
    ReadFromDisk = 7,
    Serde = 17,
    FileOperation = 19,
    NoSuchCpu = 21,
    InsufficientCpus = 22,
    InsufficientMemoryRequested = 26,
    InsufficientMemoryAvailable = 27,
    Ioctl = 29,
    EifParsing = 35,
    EnclaveBoot = 36,
    ProcessCommand = 38,
    ProcessConnection = 39,
    SocketPath = 40,
    ConsoleConnection = 44,
    ConsoleRead = 45,
    EifBuilding = 48,
    DockerBuild = 49,
    DockerPull = 50,
    Hasher = 57,
    Naming = 58,
}

impl Code {
    fn number(self) -> u8 {
        self as u8
    }
}

/// A failure on its way to the user.
#[derive(Debug)]
pub struct Refused {
    code: Code,
    /// What the code's sentence names, such as a file and what was done with it.
    facts: Vec<String>,
    /// Our own words: the cause, then what to do.
    why: Vec<String>,
    /// Where in the source it was found.
    place: &'static Location<'static>,
}

impl Refused {
    #[track_caller]
    pub fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, facts: Vec::new(), why: vec![why.into()], place: Location::caller() }
    }

    /// A library's or the command line's refusal under this code.
    #[track_caller]
    pub fn because(code: Code, failure: &Failure) -> Self {
        let help = failure.help().iter().map(|line| format!("help: {line}"));
        let why = std::iter::once(failure.line()).chain(help).collect();
        Self { code, facts: Vec::new(), why, place: Location::caller() }
    }

    /// A file that cannot be opened, read or written: `doing` is `Open`, `Read`, ….
    #[track_caller]
    pub fn file(path: &Path, doing: &str, why: impl std::fmt::Display) -> Self {
        Self::new(Code::FileOperation, why.to_string()).about([path.display().to_string(), doing.to_owned()])
    }

    /// Gives the code's sentence what it names.
    #[must_use]
    pub fn about(mut self, facts: impl IntoIterator<Item = String>) -> Self {
        self.facts = facts.into_iter().collect();
        self
    }

    /// Prints the block and gives the exit code. `action` is what the user asked for, in nitro-cli's words.
    pub fn report(&self, action: &str, ui: &Ui) -> ExitCode {
        ui.error(&self.block(action, environment::nitro_cli_backtrace()));
        ExitCode::from(self.code.number())
    }

    fn block(&self, action: &str, backtrace: bool) -> String {
        let mut block = format!("[ E{:02} ] {}", self.code.number(), self.sentence());
        for line in &self.why {
            let _ = write!(block, "\n{}", eif::shown(line));
        }
        let _ = write!(block, "\n\nFor more details, please visit {HELP}#E{:02}", self.code.number());
        if backtrace {
            let subactions: String = self.why.iter().map(|line| format!("\n    {}", eif::shown(line))).collect();
            let _ = write!(
                block,
                "\n\nBacktrace:\n  Action: {action}\n  Subactions:{subactions}\n  Root error file: {}\n  \
                 Root error line: {}\n  Version: {}",
                self.place.file(),
                self.place.line(),
                env!("CARGO_PKG_VERSION"),
            );
        }
        block
    }

    /// The code's sentence; where nitro-cli's has arguments, with them.
    fn sentence(&self) -> String {
        let (title, _) = TABLE[usize::from(self.code.number())];
        let facts: Vec<String> = self.facts.iter().map(|fact| eif::shown(fact)).collect();
        match (self.code, &facts[..]) {
            (Code::MissingArgument, [argument]) => {
                format!("{title}. User did not provide the `{argument}` argument.")
            }
            (Code::FileOperation, [path, doing]) => {
                format!("{title}.\nFile: '{path}', failing operation: '{doing}'.")
            }
            _ => format!("{title}."),
        }
    }
}

/// What a code means; `None` for one that nitro-cli does not have.
pub fn explain(code: &str) -> Option<String> {
    let number = code
        .strip_prefix('E')
        .filter(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_digit()))?;
    let (title, text) = number.parse().ok().and_then(|number: usize| TABLE.get(number))?;
    Some(format!("{title}. {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_is_nitro_clis() {
        let refused = Refused::file(Path::new("/no\nsuch"), "Open", "not found");
        assert_eq!(
            refused.block("Describe EIF", false),
            "[ E19 ] File operation failure.\nFile: '/no\\nsuch', failing operation: 'Open'.\nnot found\n\n\
             For more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#E19"
        );
        let traced = refused.block("Describe EIF", true);
        let (_, backtrace) = traced.split_once("#E19\n\nBacktrace:\n").unwrap();
        let names: Vec<&str> = backtrace.lines().map(|line| line.split(':').next().unwrap().trim()).collect();
        let expected = ["Action", "Subactions", "not found", "Root error file", "Root error line", "Version"];
        assert_eq!(names, expected, "{backtrace}");
    }

    #[test]
    fn sentences_with_arguments_are_nitro_clis() {
        let sentence =
            |code, facts: &[&str]| Refused::new(code, "").about(facts.iter().map(|fact| (*fact).to_owned())).sentence();
        for (code, facts, expected) in [
            (
                Code::MissingArgument,
                &["private-key"][..],
                "Missing mandatory argument. User did not provide the `private-key` argument.",
            ),
            (Code::EifBuilding, &[], "EIF building error."),
        ] {
            assert_eq!(sentence(code, facts), expected);
        }
    }

    #[test]
    fn every_code_is_explained_and_no_other() {
        for number in 0..60 {
            assert!(explain(&format!("E{number:02}")).is_some_and(|text| text.len() > 30), "E{number:02}");
        }
        for other in ["", "E", "E60", "E1", "19", "E+1", "e19", "E019"] {
            assert_eq!(explain(other), None, "{other}");
        }
    }
}
