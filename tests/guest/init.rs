//! PID 1 of the guests of `tests/vsock.rs`: `scenarios=WORD,WORD` on the kernel's command line, which the kernel hands on
//! as an environment variable, says what to do. It prints `ok WORD` or `FAILED WORD: why`, then reboots. Compiled by the test with `rustc`, static, for the host's processor.

use std::ffi::{c_int, c_uint, c_ulong};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const Address, len: c_uint) -> c_int;
    fn bind(fd: c_int, address: *const Address, len: c_uint) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept(fd: c_int, address: *mut Address, len: *mut c_uint) -> c_int;
    fn shutdown(fd: c_int, how: c_int) -> c_int;
    fn sync();
    fn reboot(how: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut u32) -> c_int;
    fn mount(source: *const u8, target: *const u8, kind: *const u8, flags: c_ulong, data: *const u8) -> c_int;
}

const AF_VSOCK: c_int = 40;
const SOCK_STREAM: c_int = 1;
const ANY: u32 = u32::MAX;
const SHUT_WR: c_int = 1;
const RB_AUTOBOOT: c_int = 0x0123_4567;
const GET_LOCAL_CID: c_ulong = 0x7b9;

#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

const LEN: c_uint = size_of::<Address>() as c_uint;

fn address(cid: u32, port: u32) -> Address {
    Address { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] }
}

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn new_socket() -> io::Result<File> {
    // SAFETY: no pointers; the descriptor is new and ours alone.
    let fd = unsafe { OwnedFd::from_raw_fd(checked(socket(AF_VSOCK, SOCK_STREAM, 0))?) };
    Ok(File::from(fd))
}

fn dial(cid: u32, port: u32) -> io::Result<File> {
    let stream = new_socket()?;
    // SAFETY: the address lives through the call, and its length is right.
    checked(unsafe { connect(stream.as_raw_fd(), &address(cid, port), LEN) })?;
    Ok(stream)
}

fn half_close(stream: &File) -> io::Result<()> {
    // SAFETY: no pointers.
    checked(unsafe { shutdown(stream.as_raw_fd(), SHUT_WR) }).map(drop)
}

struct Listener(File);

impl Listener {
    fn new(port: u32) -> io::Result<Self> {
        let listener = new_socket()?;
        // SAFETY: the address lives through the call, and its length is right.
        checked(unsafe { bind(listener.as_raw_fd(), &address(ANY, port), LEN) })?;
        // SAFETY: no pointers.
        checked(unsafe { listen(listener.as_raw_fd(), 128) })?;
        Ok(Self(listener))
    }

    fn accept(&self) -> io::Result<File> {
        // SAFETY: null is allowed where the address is not wanted; the descriptor is new and ours alone.
        let fd = unsafe { checked(accept(self.0.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()))? };
        // SAFETY: as above.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

fn fail<T>(why: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(why.into()))
}

/// The byte at `index` of the stream number `seed`.
fn pattern(seed: u64, index: u64) -> u8 {
    ((index ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Sends `total` bytes from one thread and checks the echo in another.
fn echo(port: u32, seed: u64, total: u64) -> io::Result<()> {
    let mut out = dial(3, port)?;
    let mut back = out.try_clone()?;
    let sender = thread::spawn(move || -> io::Result<()> {
        let mut at = 0;
        while at < total {
            let chunk: Vec<u8> = (at..total.min(at + 50_000)).map(|index| pattern(seed, index)).collect();
            out.write_all(&chunk)?;
            at += chunk.len() as u64;
        }
        half_close(&out)
    });
    let mut at = 0;
    let mut buffer = vec![0; 70_000];
    loop {
        let read = back.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        for byte in &buffer[..read] {
            if *byte != pattern(seed, at) {
                return fail(format!("byte {at} is wrong"));
            }
            at += 1;
        }
    }
    sender.join().unwrap()?;
    if at == total { Ok(()) } else { fail(format!("{at} bytes of {total} came back")) }
}

fn heartbeat() -> io::Result<()> {
    let mut stream = dial(3, 9000)?;
    stream.write_all(&[0xB7])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [0xB7] { Ok(()) } else { fail(format!("the answer is {answer:?}")) }
}

/// Nobody listens: the answer is a refusal, and it does not take the two seconds of a timeout.
fn refused(cid: u32, port: u32) -> io::Result<()> {
    let begin = Instant::now();
    match dial(cid, port) {
        Ok(_) => fail("the connection was accepted"),
        Err(_) if begin.elapsed() > Duration::from_secs(1) => fail(format!("it took {:?}", begin.elapsed())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

fn parallel(port: u32, count: u64) -> io::Result<()> {
    let threads: Vec<_> = (0..count).map(|seed| thread::spawn(move || echo(port, seed, 300_000))).collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap())
}

/// Ends its own direction first, and still gets an answer that depends on the end.
fn half(port: u32) -> io::Result<()> {
    let mut stream = dial(3, port)?;
    stream.write_all(b"how long is this?")?;
    half_close(&stream)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer == "17 bytes" { Ok(()) } else { fail(format!("the answer is {answer:?}")) }
}

/// Reads nothing for a while, so that the host has to hold back; then everything is there.
fn slow_reader(port: u32, total: u64) -> io::Result<()> {
    let mut stream = dial(3, port)?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    thread::sleep(Duration::from_millis(500));
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    let all: Vec<u8> = first.into_iter().chain(rest).collect();
    let right = all.iter().enumerate().all(|(index, byte)| *byte == pattern(1, index as u64));
    if right && all.len() as u64 == total { Ok(()) } else { fail(format!("{} bytes, right: {right}", all.len())) }
}

/// The last bytes before a close are not lost.
fn parting_words(port: u32, total: u64) -> io::Result<()> {
    let mut stream = dial(3, port)?;
    let all: Vec<u8> = (0..total).map(|index| pattern(2, index)).collect();
    stream.write_all(&all)
}

/// Echoes connections of the host, one thread each, until one sends `stop`.
fn serve(port: u32) -> io::Result<()> {
    let listener = Listener::new(port)?;
    println!("serving");
    loop {
        let mut stream = listener.accept()?;
        let mut first = [0; 4];
        stream.read_exact(&mut first)?;
        if &first == b"stop" {
            return Ok(());
        }
        thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            let mut out = stream.try_clone().unwrap();
            out.write_all(&first).unwrap();
            while let Ok(read @ 1..) = stream.read(&mut buffer) {
                out.write_all(&buffer[..read]).unwrap();
            }
            half_close(&out).unwrap();
        });
    }
}

/// The launcher's end of the connection says that it has the report: a reboot right behind the write may lose it.
fn report(bytes: &[u8]) -> io::Result<()> {
    let mut stream = dial(3, 9001)?;
    stream.write_all(bytes)?;
    half_close(&stream)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => fail("an answer to the report"),
    }
}

fn local_cid() -> io::Result<()> {
    let device = File::open("/dev/vsock")?;
    let mut cid = 0;
    // SAFETY: the ioctl writes one u32.
    checked(unsafe { ioctl(device.as_raw_fd(), GET_LOCAL_CID, &mut cid) })?;
    println!("cid {cid}");
    Ok(())
}

/// More on the console than any launcher keeps.
fn flood() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for number in 0..150_000 {
        writeln!(out, "line {number}")?;
    }
    out.flush()
}

fn scenario(word: &str) -> io::Result<()> {
    match word {
        "cid" => local_cid(),
        "heartbeat" => heartbeat(),
        "no-heartbeat" => refused(3, 9000),
        "refused" => refused(3, 7777),
        "other-cid" => refused(2, 9000),
        "echo" => echo(5000, 7, 64 << 20),
        "parallel" => parallel(5000, 100),
        "half" => half(5001),
        "slow-reader" => slow_reader(5002, 8 << 20),
        "parting-words" => parting_words(5003, 1 << 20),
        "serve" => serve(6000),
        "flood" => flood(),
        "exit-7" => report(b"EIF\x01\x00\x07\x00\x00"),
        "signal-9" => report(b"EIF\x01\x01\x09\x00\x00"),
        "failed" => report(b"EIF\x01\x02\x00\x00\x02eif-init: chdir \"/srv\": ENOENT"),
        "forever" => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        "panic" => std::process::exit(3),
        other => fail(format!("no scenario {other}")),
    }
}

fn main() {
    // SAFETY: the strings end in NUL. A failure shows when /dev/vsock is opened.
    unsafe { mount(c"dev".as_ptr().cast(), c"/dev".as_ptr().cast(), c"devtmpfs".as_ptr().cast(), 0, std::ptr::null()) };
    let words = std::env::var("scenarios").unwrap_or_default();
    for word in words.split(',') {
        match scenario(word) {
            Ok(()) => println!("ok {word}"),
            Err(error) => println!("FAILED {word}: {error}"),
        }
    }
    // SAFETY: no pointers.
    unsafe {
        sync();
        reboot(RB_AUTOBOOT);
    }
}
