//! A gzip writer that uses several threads and whose bytes do not depend on how many.
//!
//! As pigz does: the input is cut into blocks of a fixed size, each is deflated by itself and ended at a byte
//! boundary (a sync flush), and all are joined into one member. The kernel's inflate takes one member only for one
//! archive, so members in a row would not do.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use flate2::{Compress, Compression, FlushCompress};

/// Input bytes in a block.
const BLOCK: usize = 1 << 20;
/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// An empty last block with fixed codes (RFC 1951, 3.2.6).
const END: [u8; 2] = [3, 0];

/// A block on its way to a worker, and where the result goes.
struct Job {
    block: Vec<u8>,
    done: SyncSender<io::Result<Vec<u8>>>,
}

/// Compresses blocks on worker threads and writes them in their order.
pub struct Encoder<W: Write> {
    out: W,
    block: Vec<u8>,
    crc: crc32fast::Hasher,
    length: u32,
    jobs: Option<SyncSender<Job>>,
    pending: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    workers: Vec<JoinHandle<()>>,
}

impl<W: Write> Encoder<W> {
    /// Writes the header and starts the workers.
    pub(super) fn new(mut out: W, threads: usize) -> io::Result<Self> {
        out.write_all(&HEADER)?;
        let threads = threads.max(1);
        let (jobs, queue) = sync_channel::<Job>(threads);
        let queue = Arc::new(Mutex::new(queue));
        let worker = |queue: Arc<Mutex<Receiver<Job>>>| move || work(&queue);
        let workers = (0..threads).map(|_| std::thread::Builder::new().spawn(worker(Arc::clone(&queue))));
        Ok(Self {
            out,
            block: Vec::with_capacity(BLOCK),
            crc: crc32fast::Hasher::new(),
            length: 0,
            workers: workers.collect::<io::Result<_>>()?,
            jobs: Some(jobs),
            pending: VecDeque::new(),
        })
    }

    /// Hands the block over, and writes what is done when enough is under way.
    fn submit(&mut self) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (done, result) = sync_channel(1);
        let lost = || io::Error::other("the compressor's threads are gone");
        self.jobs.as_ref().ok_or_else(lost)?.send(Job { block, done }).map_err(|_| lost())?;
        self.pending.push_back(result);
        while self.pending.len() > self.workers.len().saturating_mul(2) {
            self.write_next()?;
        }
        Ok(())
    }

    fn write_next(&mut self) -> io::Result<()> {
        let Some(result) = self.pending.pop_front() else { return Ok(()) };
        let bytes = result.recv().map_err(|_| io::Error::other("the compressor's threads are gone"))??;
        self.out.write_all(&bytes)
    }

    /// Writes what is left, the end and the checksums (RFC 1952, 2.3.1).
    pub(super) fn finish(mut self) -> io::Result<W> {
        if !self.block.is_empty() {
            self.submit()?;
        }
        while !self.pending.is_empty() {
            self.write_next()?;
        }
        drop(self.jobs.take());
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| io::Error::other("a thread of the compressor panicked"))?;
        }
        self.out.write_all(&END)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        self.out.write_all(&self.length.to_le_bytes())?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK.saturating_sub(self.block.len()));
        let taken = bytes.get(..count).unwrap_or_default();
        self.crc.update(taken);
        // The length is modulo 2^32 by the standard.
        self.length = self.length.wrapping_add(u32::try_from(count).unwrap_or_default());
        self.block.extend_from_slice(taken);
        if self.block.len() == BLOCK {
            self.submit()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(Job { block, done }) = job else { return };
        // The other end may be gone after an error there.
        let _ = done.send(deflate(&block));
    }
}

fn deflate(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut deflater = Compress::new(Compression::new(6), false);
    let mut out = Vec::with_capacity(block.len().saturating_add(4096));
    loop {
        let consumed = usize::try_from(deflater.total_in()).unwrap_or(usize::MAX);
        let rest = block.get(consumed..).unwrap_or_default();
        deflater.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
        // Room left behind a sync flush means that all of it came out.
        if out.len() < out.capacity() {
            return Ok(out);
        }
        out.reserve(4096);
    }
}
