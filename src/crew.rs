//! Work that threads share, so that none of them waits while there is some: each takes a job that can be done now,
//! does it, and puts back what came of it. As many threads as there are cores then keep all of them busy, where a thread
//! for each stage of the work would wait for the others, or take a core from them.

use std::panic::resume_unwind;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The jobs there are, as all threads see them. Only [`work`](Board::work) may panic.
pub(crate) trait Board {
    /// Something to do that needs nobody else.
    type Job;
    /// What nobody wants after a job. It is dropped when the board is free: dropping may take long, or need the board.
    type Rest;

    /// Does it; nobody waits for the board meanwhile.
    fn work(job: &mut Self::Job);

    /// Takes what came of a job.
    fn put_back(&mut self, job: Self::Job) -> Self::Rest;
}

/// A board and those who wait at it.
#[derive(Debug)]
pub(crate) struct Crew<B> {
    shared: Mutex<Shared<B>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Shared<B> {
    board: B,
    /// Whether a job is gone with a thread that panicked.
    lost: bool,
}

/// The board, for as long as nobody else has it.
pub(crate) struct Held<'a, B> {
    crew: &'a Crew<B>,
    shared: MutexGuard<'a, Shared<B>>,
}

impl<B: Board> Crew<B> {
    pub(crate) fn new(board: B) -> Self {
        Self { shared: Mutex::new(Shared { board, lost: false }), changed: Condvar::new() }
    }

    pub(crate) fn board(&self) -> Held<'_, B> {
        // Nobody panics with a board in hand.
        Held { crew: self, shared: self.shared.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Lets those look again who wait for a job or for what comes of one.
    pub(crate) fn wake(&self) {
        self.changed.notify_all();
    }
}

impl<B: Board> Held<'_, B> {
    /// Does jobs, whatever `take` finds, until it is `enough`; and waits where there are none. Once a thread has panicked
    /// at a job, for which others would wait in vain, this panics too.
    pub(crate) fn until(self, enough: impl Fn(&B) -> bool, take: impl Fn(&mut B) -> Option<B::Job>) -> Self {
        let Self { crew, mut shared } = self;
        while !enough(&shared.board) {
            if shared.lost {
                drop(shared);
                // The first panic has told why.
                resume_unwind(Box::new("another thread has panicked"));
            }
            shared = match take(&mut shared.board) {
                Some(mut job) => {
                    drop(shared);
                    let watch = Watch(crew);
                    B::work(&mut job);
                    drop(watch);
                    let rest = crew.board().put_back(job);
                    crew.wake();
                    drop(rest);
                    crew.board().shared
                }
                None => crew.changed.wait(shared).unwrap_or_else(PoisonError::into_inner),
            };
        }
        Self { crew, shared }
    }
}

impl<B> std::ops::Deref for Held<'_, B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.shared.board
    }
}

impl<B> std::ops::DerefMut for Held<'_, B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.shared.board
    }
}

/// Sees a job's panic.
struct Watch<'a, B: Board>(&'a Crew<B>);

impl<B: Board> Drop for Watch<'_, B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.board().shared.lost = true;
            self.0.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Counts down; a job of 13 panics.
    #[derive(Default)]
    struct Countdown {
        left: u32,
        done: Vec<u32>,
    }

    impl Board for Countdown {
        type Job = u32;
        type Rest = ();

        fn work(job: &mut u32) {
            assert_ne!(*job, 13, "an unlucky job");
            *job *= 2;
        }

        fn put_back(&mut self, job: u32) {
            self.done.push(job);
        }
    }

    fn take(board: &mut Countdown) -> Option<u32> {
        board.left = board.left.checked_sub(1)?;
        Some(board.left)
    }

    fn crew(left: u32) -> Crew<Countdown> {
        Crew::new(Countdown { left, ..Countdown::default() })
    }

    #[test]
    fn all_jobs_are_done_once() {
        for threads in [0, 1, 3] {
            let crew = crew(13);
            let until_all = || drop(crew.board().until(|board| board.done.len() == 13, take));
            std::thread::scope(|scope| {
                (0..threads).for_each(|_| drop(scope.spawn(until_all)));
                until_all();
            });
            let mut done = std::mem::take(&mut crew.board().done);
            done.sort_unstable();
            assert_eq!(done, (0..13).map(|job| 2 * job).collect::<Vec<_>>());
        }
    }

    #[test]
    fn enough_is_enough() {
        let crew = crew(13);
        let board = crew.board().until(|board| board.left <= 10, take);
        assert_eq!((board.left, &*board.done), (10, &[24, 22, 20][..]));
    }

    /// Nobody waits for what a panic took: without that this test would not end.
    #[test]
    fn a_panic_is_one_of_all_who_wait() {
        let crew = crew(14);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| drop(crew.board().until(|_| false, |_| None)));
            let panics = || drop(crew.board().until(|_| false, take));
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            assert!(waits.join().is_err());
        });
        assert_eq!(crew.board().left, 13);
    }
}
