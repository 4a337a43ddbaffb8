//! What the store promises, one process; several are in tests/store.rs.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::Refusal;

const SIZE: usize = 1000;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("blobs"), None).unwrap();
    (folder, store)
}

fn blob(number: u8) -> (Digest, Vec<u8>) {
    let bytes = vec![number; SIZE];
    (Digest::of(&bytes), bytes)
}

fn partial(store: &Store, digest: &Digest) -> Partial {
    match store.begin(digest, SIZE as u64).unwrap() {
        Slot::Partial(partial) => partial,
        Slot::Finished(_) => panic!("finished"),
    }
}

fn content(mut file: fs::File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// What a registry does: bring what is missing; give the bytes that came.
fn fetch(store: &Store, digest: &Digest, bytes: &[u8]) -> (Vec<u8>, u64) {
    let mut brought = 0;
    for _ in 0..2 {
        let mut partial = match store.begin(digest, bytes.len() as u64).unwrap() {
            Slot::Finished(file) => return (content(file), brought),
            Slot::Partial(partial) => partial,
        };
        for chunk in bytes[partial.len() as usize..].chunks(77) {
            partial.append(chunk).unwrap();
            brought += chunk.len() as u64;
        }
        match partial.finish() {
            Ok(file) => return (content(file), brought),
            Err(error) => assert_eq!(error.code(), "E-digest"),
        }
    }
    panic!("wrong twice");
}

fn files(store: &Store) -> Vec<(bool, u64)> {
    store.list().unwrap().iter().map(|stored| (stored.finished, stored.size)).collect()
}

#[test]
fn a_download_goes_on_where_it_was_cut() {
    let (_folder, store) = store();
    let (digest, bytes) = blob(1);
    partial(&store, &digest).append(&bytes[..300]).unwrap();
    assert!(store.get(&digest).unwrap().is_none());
    let mut rest = partial(&store, &digest);
    assert_eq!(rest.len(), 300);
    rest.append(&bytes[300..]).unwrap();
    assert_eq!(content(rest.finish().unwrap()), bytes);
    assert_eq!(content(store.get(&digest).unwrap().unwrap()), bytes);
    assert_eq!(files(&store), [(true, SIZE as u64)]);
}

#[test]
fn a_process_killed_before_the_rename_has_not_worked_in_vain() {
    let (_folder, store) = store();
    let (digest, bytes) = blob(1);
    partial(&store, &digest).append(&bytes).unwrap();
    let Slot::Finished(file) = store.begin(&digest, SIZE as u64).unwrap() else { panic!("not finished") };
    assert_eq!(content(file), bytes);
}

#[test]
fn wrong_bytes_and_wrong_sizes_get_no_name() {
    let (_folder, store) = store();
    let (digest, bytes) = blob(1);
    let mut wrong = partial(&store, &digest);
    assert_eq!(wrong.append(&[0; SIZE + 1]).unwrap_err().code(), "E-size");
    wrong.append(&[0; SIZE]).unwrap();
    assert_eq!(wrong.finish().unwrap_err().code(), "E-digest");
    assert_eq!(files(&store), [], "nothing is kept of it");
    let mut short = partial(&store, &digest);
    short.append(&bytes[..10]).unwrap();
    assert_eq!(short.finish().unwrap_err().code(), "E-size");
    assert_eq!(files(&store), [(false, 10)], "it can be resumed");
    assert_eq!(store.put(&digest, &bytes[1..]).unwrap_err().code(), "E-digest");
    store.put(&digest, &bytes).unwrap();
    let nothing = Digest::of(b"");
    store.put(&nothing, b"").unwrap();
    assert_eq!(content(store.get(&nothing).unwrap().unwrap()), b"");
}

#[test]
fn only_a_blob_that_is_corrupt_is_discarded() {
    let (_folder, store) = store();
    let (digest, bytes) = blob(1);
    store.discard(&digest).unwrap();
    store.put(&digest, &bytes).unwrap();
    store.discard(&digest).unwrap();
    assert!(store.get(&digest).unwrap().is_some(), "another process was faster");
    fs::write(store.finished(&digest), b"rot").unwrap();
    store.discard(&digest).unwrap();
    assert!(store.get(&digest).unwrap().is_none());
}

#[test]
fn an_empty_download_leaves_no_file() {
    let (_folder, store) = store();
    let (digest, bytes) = blob(1);
    drop(partial(&store, &digest));
    assert_eq!(files(&store), []);
    partial(&store, &digest).append(&bytes[..1]).unwrap();
    assert_eq!(files(&store), [(false, 1)]);
}

#[test]
fn the_longest_unused_go_first_and_what_is_in_use_stays() {
    let (_folder, store) = store();
    for number in 0..4 {
        let (digest, bytes) = blob(number);
        store.put(&digest, &bytes).unwrap();
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number));
        fs::File::open(store.finished(&digest)).unwrap().set_modified(old).unwrap();
    }
    let reading = store.get(&blob(0).0).unwrap().unwrap();
    let (given_up, held) = (Digest::of(b"given up"), Digest::of(b"held"));
    partial(&store, &given_up).append(b"x").unwrap();
    let mut holder = partial(&store, &held);
    holder.append(b"x").unwrap();
    let size = SIZE as u64;
    let all = 4 * size + 2;
    assert_eq!(store.prune(all, false).unwrap(), Pruned { blobs: 0, bytes: 0, left: all });
    assert_eq!(store.prune(all - 1, false).unwrap(), Pruned { blobs: 1, bytes: size, left: all - size });
    assert!(store.get(&blob(1).0).unwrap().is_none(), "0 is used now");
    assert_eq!(store.prune(all, true).unwrap(), Pruned { blobs: 1, bytes: 1, left: all - size - 1 });
    assert_eq!(store.prune(0, true).unwrap().left, size + 1);
    drop((reading, holder));
    assert_eq!(store.prune(0, true).unwrap().left, 0);
    assert_eq!(files(&store), []);
}

#[test]
fn the_bound_of_the_store_holds_after_trim() {
    let (folder, store) = store();
    for number in 0..3 {
        let (digest, bytes) = blob(number);
        store.put(&digest, &bytes).unwrap();
    }
    assert_eq!(store.trim().unwrap(), Pruned::default());
    let bound = Store::open(&folder.path().join("blobs"), Some(SIZE as u64)).unwrap();
    assert_eq!(bound.trim().unwrap().left, SIZE as u64);
}

#[test]
fn a_private_store_is_gone_with_its_last_clone_or_the_next_process() {
    let scratch = tempfile::tempdir().unwrap();
    let names = || fs::read_dir(scratch.path()).unwrap().count();
    let store = Store::temporary(scratch.path()).unwrap();
    let clone = store.clone();
    drop(store);
    clone.put(&blob(1).0, &blob(1).1).unwrap();
    let killed = scratch.path().join("eif-store-killed");
    fs::create_dir_all(killed.join("blobs")).unwrap();
    fs::write(killed.join("lock"), "").unwrap();
    let other = Store::temporary(scratch.path()).unwrap();
    assert_eq!(names(), 2, "the killed one's is gone, the living one's is not");
    drop((clone, other));
    assert_eq!(names(), 0);
}

#[test]
fn threads_that_want_the_same_blob_bring_it_once() {
    let (folder, _) = store();
    let (digest, bytes) = blob(7);
    let brought = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(&folder.path().join("blobs"), None).unwrap();
                let (content, came) = fetch(&store, &digest, &bytes);
                assert_eq!(content, bytes);
                brought.fetch_add(came, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(brought.into_inner(), SIZE as u64);
}

/// Whoever reads a blob has a lock on it, and may wait for the reader of another one.
#[test]
fn a_reader_is_in_nobodys_way() {
    let (folder, store) = store();
    let (digest, bytes) = blob(1);
    let mut writer = partial(&store, &digest);
    writer.append(&bytes).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    for _ in 0..4 {
        let (sender, store) = (sender.clone(), Store::open(&folder.path().join("blobs"), None).unwrap());
        std::thread::spawn(move || {
            let Slot::Finished(file) = store.begin(&digest, SIZE as u64).unwrap() else { panic!("not finished") };
            sender.send(file).unwrap();
        });
    }
    assert!(receiver.recv_timeout(WAIT * 5).is_err(), "they wait");
    let finished = writer.finish().unwrap();
    let read: Vec<fs::File> = (0..4).map(|_| receiver.recv_timeout(Duration::from_secs(60)).unwrap()).collect();
    assert_eq!(store.prune(0, true).unwrap().blobs, 0);
    drop(read);
    assert_eq!(store.prune(0, true).unwrap().blobs, 0, "the writer reads on");
    assert_eq!(content(finished), bytes);
    assert_eq!(store.prune(0, true).unwrap().blobs, 1);
}

#[test]
fn a_folder_that_cannot_be_made_is_one_clear_error() {
    let (folder, _) = store();
    fs::write(folder.path().join("file"), "").unwrap();
    let open = |name: &str| Store::open(&folder.path().join(name), None);
    let error = open("file").unwrap_err();
    assert_eq!(error.code(), "E-store");
    assert!(error.to_string().ends_with("/file: not a directory"), "{error}");
    let below = open("file/blobs").unwrap();
    assert!(below.put(&blob(1).0, &blob(1).1).unwrap_err().to_string().contains("file/blobs/sha256: Not a"));
    assert_eq!(open("missing").unwrap().list().unwrap(), []);
    assert!(!folder.path().join("missing").exists());
}

/// What may happen to a store between two builds.
#[derive(Debug, Clone)]
enum Event {
    Killed { blob: u8, after: usize },
    Fetched { blob: u8 },
    Rot { blob: u8, finished: bool, at: usize },
    Pruned { bound: u64 },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..3_u8, 0..=SIZE).prop_map(|(blob, after)| Event::Killed { blob, after }),
        (0..3_u8).prop_map(|blob| Event::Fetched { blob }),
        (0..3_u8, any::<bool>(), 0..SIZE).prop_map(|(blob, finished, at)| Event::Rot { blob, finished, at }),
        (0..4 * SIZE as u64).prop_map(|bound| Event::Pruned { bound }),
    ]
}

fn happen(store: &Store, event: &Event) {
    match *event {
        Event::Killed { blob: number, after } => {
            let (digest, bytes) = blob(number);
            if let Slot::Partial(mut partial) = store.begin(&digest, SIZE as u64).unwrap() {
                let end = after.max(partial.len() as usize);
                partial.append(&bytes[partial.len() as usize..end]).unwrap();
            }
        }
        Event::Fetched { blob: number } => drop(fetch(store, &blob(number).0, &blob(number).1)),
        Event::Rot { blob: number, finished, at } => {
            let digest = blob(number).0;
            let path = if finished { store.finished(&digest) } else { store.partial(&digest) };
            if let Ok(mut bytes) = fs::read(&path) {
                bytes.truncate(at + 1);
                bytes.iter_mut().skip(at).for_each(|byte| *byte ^= 1);
                fs::write(&path, bytes).unwrap();
            }
        }
        // A process that another test starts has the locks of this one until it runs its program.
        Event::Pruned { bound } => {
            assert!((0..10_000).any(|_| store.prune(bound, false).unwrap().left <= bound));
        }
    }
}

proptest! {
    /// Whatever happened: who asks, discards what is corrupt and asks again has the bytes.
    #[test]
    fn prop_every_blob_can_be_had_in_the_end(events in prop::collection::vec(event(), 0..20)) {
        let (_folder, store) = store();
        for event in &events {
            happen(&store, event);
        }
        for number in 0..3 {
            let (digest, bytes) = blob(number);
            let (mut got, _) = fetch(&store, &digest, &bytes);
            if got != bytes {
                store.discard(&digest).unwrap();
                got = fetch(&store, &digest, &bytes).0;
            }
            prop_assert_eq!(got, bytes);
            store.discard(&digest).unwrap();
            prop_assert!(store.get(&digest).unwrap().is_some());
        }
        prop_assert!(files(&store).iter().all(|file| *file == (true, SIZE as u64)));
    }
}
