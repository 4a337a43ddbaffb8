//! The application: a child in a session of its own that becomes the image's user and executes the image's program.

use core::ffi::CStr;

use super::failure::{At, Failure};
use crate::errno::Errno;
use crate::lookup::{Candidates, DEFAULT_PATH, PATH_MAX, Verdict};
use crate::process::{Items, Process};
use crate::sys::{self, Fd, Open, Result as Call, SignalSet, signal};

/// What the child was doing when it failed; its number travels through the pipe.
#[derive(Clone, Copy)]
enum Stage {
    Session,
    Input,
    Limits,
    Groups,
    Group,
    User,
    Directory,
    Program,
    Interpreter,
}

const STAGES: [Stage; 9] = [
    Stage::Session,
    Stage::Input,
    Stage::Limits,
    Stage::Groups,
    Stage::Group,
    Stage::User,
    Stage::Directory,
    Stage::Program,
    Stage::Interpreter,
];

type Step<T> = Result<T, (Stage, Errno)>;

/// What the kernel takes instead of iterators: made before the fork, where an error has a name.
struct Prepared {
    argv: &'static [usize],
    env: &'static [usize],
    groups: &'static [u32],
}

/// Starts it and returns its process id once its program runs.
pub fn start(process: &Process<'static>) -> Result<i32, Failure> {
    let prepared = prepare(process).at("memory")?;
    let (reader, writer) = sys::pipe().at("pipe")?;
    // SAFETY: PID 1 has one thread and no locks.
    let child = unsafe { sys::fork() }.at("fork")?;
    if child == 0 {
        become_application(process, &prepared, &writer);
    }
    drop(writer);
    let mut word = [0; 8];
    match sys::read(&reader, &mut word).at("pipe")? {
        // exec has closed the pipe.
        0 => Ok(child),
        _ => Err(explain(process, word)),
    }
}

fn prepare(process: &Process<'static>) -> Call<Prepared> {
    let count = process.groups.iter().count();
    let groups = sys::allocate_words(count)?;
    // Two ids fit in a word; half of the memory is enough and stays aligned.
    // SAFETY: the memory is this function's own and has eight bytes for each id of four.
    let groups = unsafe { core::slice::from_raw_parts_mut(groups.as_mut_ptr().cast::<u32>(), count) };
    groups.iter_mut().zip(process.groups.iter()).for_each(|(slot, id)| *slot = id);
    Ok(Prepared { argv: pointers(process.argv)?, env: pointers(process.env)?, groups })
}

/// Pointers to the items, which end in NUL where they stand, and a null.
fn pointers(items: Items<'static>) -> Call<&'static [usize]> {
    let words = sys::allocate_words(items.len().checked_add(1).ok_or(Errno::E2BIG)?)?;
    words.iter_mut().zip(items).for_each(|(slot, item)| *slot = item.as_ptr() as usize);
    Ok(words)
}

/// The child. Either it executes the program or it tells the parent why not.
fn become_application(process: &Process<'static>, prepared: &Prepared, writer: &Fd) -> ! {
    if let Err((stage, errno)) = try_application(process, prepared) {
        let mut word = [0; 8];
        word[..4].copy_from_slice(&(stage as u32).to_ne_bytes());
        word[4..].copy_from_slice(&errno.0.to_ne_bytes());
        let _ = sys::write(writer, &word);
    }
    sys::exit(127)
}

fn try_application(process: &Process<'static>, prepared: &Prepared) -> Step<()> {
    let at = |stage| move |errno| (stage, errno);
    sys::new_session().map_err(at(Stage::Session))?;
    // A console that is no terminal, or none at all: the application does without.
    let _ = sys::control_terminal();
    empty_input().map_err(at(Stage::Input))?;
    set_defaults().map_err(at(Stage::Limits))?;
    // As root first, then as the user: runc's order, for directories that only one of them may enter.
    let entered = sys::change_directory(process.cwd);
    become_user(process, prepared.groups)?;
    match entered {
        Err(Errno::EACCES | Errno::EPERM) => sys::change_directory(process.cwd),
        other => other,
    }
    .map_err(at(Stage::Directory))?;
    sys::block(SignalSet::NONE);
    Err(execute(process, prepared))
}

/// Standard input is at its end, as in a container without `-i`: a program that reads it goes on instead of waiting
/// for keys that nobody can press.
fn empty_input() -> Call<()> {
    sys::duplicate(&sys::open(c"/dev/null", Open::Read)?, 0)
}

/// What a new container has: default signal actions, umask 022, containerd's descriptor limits.
fn set_defaults() -> Call<()> {
    for number in 1..=signal::MAX {
        // Refused for SIGKILL and SIGSTOP, which have nothing but a default.
        let _ = sys::handle(number, None);
    }
    sys::set_umask(0o022);
    sys::limit_descriptors(1024, 524_288)
}

/// Groups before the user: afterwards it is no longer allowed.
fn become_user(process: &Process<'static>, groups: &[u32]) -> Step<()> {
    if process.uid != 0 {
        // So that the user can open /dev/stdout, as under Docker. The null device is refused to nobody anyway.
        let _ = sys::give(1, process.uid);
    }
    sys::set_groups(groups).map_err(|errno| (Stage::Groups, errno))?;
    sys::set_group(process.gid).map_err(|errno| (Stage::Group, errno))?;
    sys::set_user(process.uid).map_err(|errno| (Stage::User, errno))
}

/// Tries each place where `execvp` would look.
fn execute(process: &Process<'static>, prepared: &Prepared) -> (Stage, Errno) {
    let path = process.variable(b"PATH").unwrap_or(DEFAULT_PATH.as_bytes());
    let mut candidates = Candidates::new(process.program().to_bytes(), path);
    let (mut buffer, mut verdict, mut stage) = ([0; PATH_MAX], Verdict::new(), Stage::Program);
    while let Some(candidate) = candidates.next(&mut buffer) {
        let errno = match candidate {
            // SAFETY: both arrays hold pointers to NUL-ended items and end in a null.
            Ok(file) => unsafe { sys::execute(file, prepared.argv, prepared.env) },
            Err(errno) => errno,
        };
        if errno == Errno::ENOENT && candidate.is_ok_and(sys::exists) {
            stage = Stage::Interpreter;
        }
        if !verdict.goes_on(errno) {
            break;
        }
    }
    (if verdict.errno() == Errno::ENOENT { stage } else { Stage::Program }, verdict.errno())
}

/// The failure that the child's eight bytes mean.
fn explain(process: &Process<'static>, word: [u8; 8]) -> Failure {
    let [a, b, c, d, e, f, g, h] = word;
    let errno = Errno(i32::from_ne_bytes([e, f, g, h]));
    let stage = STAGES.get(u32::from_ne_bytes([a, b, c, d]) as usize).copied().unwrap_or(Stage::Program);
    let failure = |step| Failure::new(step, errno);
    match stage {
        Stage::Session => failure("setsid"),
        Stage::Input => failure("open").of(b"/dev/null"),
        Stage::Limits => failure("setrlimit"),
        Stage::Groups => failure("setgroups"),
        Stage::Group => failure("setgid"),
        Stage::User => failure("setuid"),
        Stage::Directory => failure("chdir").of(process.cwd.to_bytes()),
        Stage::Program => failure("exec").of(program_name(process)),
        Stage::Interpreter => {
            failure("exec").of(program_name(process)).because("the file is there, its interpreter or loader is not")
        }
    }
}

fn program_name(process: &Process<'static>) -> &'static [u8] {
    CStr::to_bytes(process.program())
}
