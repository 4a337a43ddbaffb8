//! What a long operation tells while it runs.

/// Receives progress; called from several threads.
pub trait Progress: Sync {
    /// A stage begins; `total` is its size in bytes where that is known.
    fn stage(&self, name: &str, total: Option<u64>);

    /// So many more bytes of the stage are done.
    fn advance(&self, bytes: u64);

    /// `done` of the `total` bytes of a download are there. Several run at once, told apart by `name`; one may fall back
    /// to a smaller number, and ends with `done` equal to `total`.
    fn transfer(&self, _name: &str, _done: u64, _total: u64) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &str, _total: Option<u64>) {}

    fn advance(&self, _bytes: u64) {}
}
