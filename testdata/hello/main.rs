//! The program of the hello image: says hello, and shows from inside what the enclave gave it.
//!
//! Without arguments it greets, shows (as `env`) and exits with status 0. Otherwise the arguments are commands, done
//! one after the other:
//!
//! | command | what it prints or does |
//! |---|---|
//! | `env` | arguments, environment, ids, directory, host name, `lo`, signals, descriptors, terminal, random pool |
//! | `list` | every entry of the root file system (see `listing.rs`), between `list: begin` and `list: end` |
//! | `times` | as `list`, but `MTIME /PATH` |
//! | `cat PATH` | the file's bytes |
//! | `write PATH TEXT` | writes a line to an existing file |
//! | `xattr PATH NAME` | the attribute's value in hex |
//! | `orphans N` | N children whose parent dies; `orphans: all reaped`, or how many PID 1 left lying |
//! | `forward N` | sends signal N to PID 1 and waits for it to come back |
//! | `linger` | leaves a child behind that ignores SIGTERM |
//! | `escape` | tries to leave the root; prints what each way leads to. Ends the mount namespace: last but `exit` |
//! | `wait-term` | waits for SIGTERM, says so and exits with status 7 |
//! | `forever` | greets once a second |
//! | `exit N` | exits with status N |
//! | `kill N` | kills itself by signal N |
//!
//! A command that fails says `COMMAND: ERRNO` and exits with status 99; an unknown one exits with status 98.

#![no_std]
#![no_main]

mod escape;
mod listing;
mod output;
mod sha256;
mod show;
mod trials;

use core::ffi::CStr;

use eif_init::sys;
use eif_init::text::parse_decimal;

use output::Output;

eif_init::freestanding!(run, panicked);

/// The line that the whole project is about.
const GREETING: &str = "Hello from the enclave side!";

/// A text that the kernel put on the stack.
type Text = &'static CStr;

fn run(stack: *const usize) -> ! {
    // SAFETY: this is the stack as the kernel left it.
    let (argv, env) = unsafe { arguments(stack) };
    let mut output = Output::new();
    output.line(GREETING.as_bytes());
    let mut rest = Words(argv);
    rest.next();
    if rest.0.is_empty() {
        show::all(&mut output, argv, env);
    }
    while let Some(command) = rest.next() {
        if let Err(errno) = perform(command, &mut rest, &mut output, (argv, env)) {
            output.text(command.to_bytes()).text(b": ").line(errno.name().unwrap_or("failed").as_bytes());
            sys::exit(99);
        }
    }
    sys::exit(0)
}

fn panicked() -> ! {
    sys::print(1, b"hello: panicked\n");
    sys::exit(101)
}

fn perform(command: Text, rest: &mut Words, output: &mut Output, start: (Pointers, Pointers)) -> sys::Result<()> {
    match command.to_bytes() {
        b"env" => show::all(output, start.0, start.1),
        b"list" => listing::print(output, listing::Show::Everything)?,
        b"times" => listing::print(output, listing::Show::Times)?,
        b"cat" => show::file(output, rest.text())?,
        b"write" => trials::write(rest.text(), rest.text())?,
        b"xattr" => show::attribute(output, rest.text(), rest.text())?,
        b"orphans" => trials::orphans(output, rest.number())?,
        b"forward" => trials::forward(output, rest.number() as i32)?,
        b"linger" => trials::linger(output)?,
        b"escape" => escape::all(output)?,
        b"wait-term" => trials::wait_term(output),
        b"forever" => trials::forever(output),
        b"exit" => sys::exit(rest.number() as i32),
        b"kill" => trials::kill_self(rest.number() as i32)?,
        _ => {
            output.text(command.to_bytes()).line(b": unknown command");
            sys::exit(98);
        }
    }
    Ok(())
}

/// A vector of pointers to texts, as the kernel passes arguments and environment.
type Pointers = &'static [*const core::ffi::c_char];

/// The two vectors on the stack: argc, argv, null, envp, null.
///
/// # Safety
/// `stack` must be the stack pointer that the kernel set.
unsafe fn arguments(stack: *const usize) -> (Pointers, Pointers) {
    // SAFETY: the layout is the kernel's, and it lives as long as the process.
    unsafe {
        let count = *stack;
        let argv = stack.add(1);
        let env = argv.add(count + 1);
        let mut entries = 0;
        while *env.add(entries) != 0 {
            entries += 1;
        }
        (core::slice::from_raw_parts(argv.cast(), count), core::slice::from_raw_parts(env.cast(), entries))
    }
}

/// The texts of a vector, one by one.
struct Words(Pointers);

impl Words {
    /// The next argument, or an empty text.
    fn text(&mut self) -> Text {
        self.next().unwrap_or_default()
    }

    /// The next argument as a number, or zero.
    fn number(&mut self) -> u32 {
        parse_decimal(self.text().to_bytes()).and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
    }
}

impl Iterator for Words {
    type Item = Text;

    fn next(&mut self) -> Option<Text> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        // SAFETY: the kernel ends each text with NUL; the length is found by reading up to it.
        let bytes = unsafe { core::slice::from_raw_parts(first.cast::<u8>(), length(*first) + 1) };
        CStr::from_bytes_with_nul(bytes).ok()
    }
}

/// # Safety
/// The text must end in NUL.
unsafe fn length(text: *const core::ffi::c_char) -> usize {
    let mut count = 0;
    // SAFETY: reads up to the NUL. Volatile, so that the loop is not turned into a call of C's `strlen`.
    while unsafe { text.add(count).read_volatile() } != 0 {
        count += 1;
    }
    count
}
