//! Which store keyed state is kept in. For each candidate: 10 million keys written in random order, read and written again, under a
//! bounded cache; a checkpoint and how long it stops the writer; a fork of it read while the live store is written on; 24 kept
//! checkpoints with 1 % of the keys changed between two; opening after the process was killed.
//!
//!     cargo run --release [--features rocksdb] -- lsm-tree|redb|rocksdb [MILLION KEYS]

use std::path::{Path, PathBuf};
use std::time::Instant;

const BATCH: u64 = 4096;
const CACHE: u64 = 64 << 20;
const MEMTABLE: u64 = 16 << 20;

trait Store {
    fn write(&mut self, entries: &[([u8; 16], [u8; 24])]);
    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>>;
    /// Makes a checkpoint; returns what opens it later.
    fn checkpoint(&mut self, at: &Path);
    /// Reads keys from a checkpoint, the live store being open.
    fn read_checkpoint(&self, at: &Path, keys: &[[u8; 16]]) -> Vec<Option<Vec<u8>>>;
    fn settle(&mut self) {}
}

/// Spreads numbers over all keys.
fn key(number: u64) -> [u8; 16] {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(x ^ (x >> 31)).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(number: u64, version: u64) -> [u8; 24] {
    let mut value = [7; 24];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value[8..16].copy_from_slice(&version.to_le_bytes());
    value
}

struct Lsm {
    path: PathBuf,
    tree: lsm_tree::AnyTree,
    seqno: u64,
    cache: std::sync::Arc<lsm_tree::Cache>,
}

impl Lsm {
    fn tree(path: &Path, cache: &std::sync::Arc<lsm_tree::Cache>) -> lsm_tree::AnyTree {
        lsm_tree::Config::new(path, Default::default(), Default::default()).use_cache(cache.clone()).open().unwrap()
    }

    fn open(path: &Path) -> Self {
        use lsm_tree::AbstractTree;
        let cache = std::sync::Arc::new(lsm_tree::Cache::with_capacity_bytes(CACHE));
        let tree = Self::tree(path, &cache);
        let seqno = tree.get_highest_seqno().map_or(0, |seqno| seqno + 1);
        Self { path: path.into(), tree, seqno, cache }
    }

    fn flush(&self) {
        use lsm_tree::AbstractTree;
        let lock = self.tree.get_flush_lock();
        self.tree.rotate_memtable();
        self.tree.flush(&lock, self.seqno).unwrap();
        drop(lock);
        let strategy = lsm_tree::compaction::Leveled::default().with_table_target_size(MEMTABLE);
        self.tree.compact(std::sync::Arc::new(strategy), self.seqno).unwrap();
    }
}

impl Store for Lsm {
    fn write(&mut self, entries: &[([u8; 16], [u8; 24])]) {
        use lsm_tree::AbstractTree;
        let mut size = 0;
        for (key, value) in entries {
            size = self.tree.insert(&key[..], &value[..], self.seqno).1;
        }
        self.seqno += 1;
        if size > MEMTABLE {
            self.flush();
        }
    }

    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        use lsm_tree::AbstractTree;
        self.tree.get(key, self.seqno).unwrap().map(|value| value.to_vec())
    }

    fn checkpoint(&mut self, at: &Path) {
        self.flush();
        std::fs::create_dir_all(at.join("tables")).unwrap();
        for from in [self.path.clone(), self.path.join("tables")] {
            for entry in std::fs::read_dir(from).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let to = at.join(entry.path().strip_prefix(&self.path).unwrap());
                    std::fs::hard_link(entry.path(), to).unwrap();
                }
            }
        }
        std::fs::File::open(at).unwrap().sync_all().unwrap();
    }

    fn read_checkpoint(&self, at: &Path, keys: &[[u8; 16]]) -> Vec<Option<Vec<u8>>> {
        use lsm_tree::AbstractTree;
        // A fork of its own, for opening one removes what it does not know.
        let tree = Self::tree(at, &self.cache);
        keys.iter().map(|key| tree.get(key, u64::MAX >> 1).unwrap().map(|value| value.to_vec())).collect()
    }
}

struct Redb {
    db: redb::Database,
    savepoints: std::collections::HashMap<PathBuf, u64>,
    unsynced: u64,
}

const TABLE: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("state");

impl Redb {
    fn open(path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let db = redb::Builder::new().set_cache_size(CACHE as usize).create(path.join("db")).unwrap();
        Self { db, savepoints: Default::default(), unsynced: 0 }
    }
}

impl Store for Redb {
    fn write(&mut self, entries: &[([u8; 16], [u8; 24])]) {
        let mut transaction = self.db.begin_write().unwrap();
        self.unsynced += entries.len() as u64;
        // As often as the others flush.
        if self.unsynced < 200_000 {
            transaction.set_durability(redb::Durability::None).unwrap();
        } else {
            self.unsynced = 0;
        }
        {
            let mut table = transaction.open_table(TABLE).unwrap();
            for (key, value) in entries {
                table.insert(&key[..], &value[..]).unwrap();
            }
        }
        transaction.commit().unwrap();
    }

    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        use redb::{ReadableDatabase, ReadableTable};
        let _ = |table: redb::ReadOnlyTable<&[u8], &[u8]>| table.first().is_ok();
        let table = self.db.begin_read().unwrap().open_table(TABLE).unwrap();
        table.get(&key[..]).unwrap().map(|value| value.value().to_vec())
    }

    fn checkpoint(&mut self, at: &Path) {
        let transaction = self.db.begin_write().unwrap();
        let id = transaction.persistent_savepoint().unwrap();
        transaction.commit().unwrap();
        self.savepoints.insert(at.into(), id);
    }

    fn read_checkpoint(&self, at: &Path, keys: &[[u8; 16]]) -> Vec<Option<Vec<u8>>> {
        // Only by restoring it in a transaction that is given up again; the writer waits meanwhile.
        let mut transaction = self.db.begin_write().unwrap();
        let savepoint = transaction.get_persistent_savepoint(self.savepoints[at]).unwrap();
        transaction.restore_savepoint(&savepoint).unwrap();
        let found = {
            use redb::ReadableTable;
            let table = transaction.open_table(TABLE).unwrap();
            keys.iter().map(|key| table.get(&key[..]).unwrap().map(|value| value.value().to_vec())).collect()
        };
        transaction.abort().unwrap();
        found
    }
}

#[cfg(feature = "rocksdb")]
struct Rocks {
    db: rocksdb::DB,
    options: rocksdb::Options,
}

#[cfg(feature = "rocksdb")]
impl Rocks {
    fn open(path: &Path) -> Self {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(MEMTABLE as usize);
        options.set_max_background_jobs(1);
        let mut blocks = rocksdb::BlockBasedOptions::default();
        blocks.set_block_cache(&rocksdb::Cache::new_lru_cache(CACHE as usize));
        blocks.set_bloom_filter(10.0, false);
        options.set_block_based_table_factory(&blocks);
        Self { db: rocksdb::DB::open(&options, path).unwrap(), options }
    }
}

#[cfg(feature = "rocksdb")]
impl Store for Rocks {
    fn write(&mut self, entries: &[([u8; 16], [u8; 24])]) {
        let mut batch = rocksdb::WriteBatch::default();
        entries.iter().for_each(|(key, value)| batch.put(key, value));
        let mut options = rocksdb::WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).unwrap();
    }

    fn get(&self, key: &[u8; 16]) -> Option<Vec<u8>> {
        self.db.get(key).unwrap()
    }

    fn checkpoint(&mut self, at: &Path) {
        self.db.flush().unwrap();
        rocksdb::checkpoint::Checkpoint::new(&self.db).unwrap().create_checkpoint(at).unwrap();
    }

    fn read_checkpoint(&self, at: &Path, keys: &[[u8; 16]]) -> Vec<Option<Vec<u8>>> {
        let db = rocksdb::DB::open_for_read_only(&self.options, at, false).unwrap();
        keys.iter().map(|key| db.get(key).unwrap()).collect()
    }
}

fn open(which: &str, path: &Path) -> Box<dyn Store> {
    match which {
        "lsm-tree" => Box::new(Lsm::open(path)),
        "redb" => Box::new(Redb::open(path)),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(Rocks::open(path)),
        _ => panic!("lsm-tree, redb or rocksdb (with its feature)"),
    }
}

/// Peak and present memory, MiB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    (of("VmHWM"), of("VmRSS"))
}

fn disk(path: &Path) -> u64 {
    let out = std::process::Command::new("du").arg("-sm").arg(path).output().unwrap();
    String::from_utf8(out.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let which = arguments[0].as_str();
    let keys = arguments.get(1).map_or(10, |text| text.parse::<u64>().unwrap()) * 1_000_000;
    let root = PathBuf::from(format!("/tmp/store-spike-{which}"));
    if arguments.get(2).is_some_and(|flag| flag == "--reopen") {
        let started = Instant::now();
        let store = open(which, &root.join("live"));
        let found = (0..100).filter(|number| store.get(&key(*number)).is_some()).count();
        println!("{which}: open after SIGKILL {:.0} ms; {found} of 100 keys", started.elapsed().as_secs_f64() * 1e3);
        return;
    }
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).unwrap();
    let mut store = open(which, &root.join("live"));
    let rate = |events: u64, started: Instant| events as f64 / started.elapsed().as_secs_f64() / 1e6;

    let started = Instant::now();
    let slowest = std::cell::Cell::new(0f64);
    let write = |store: &mut Box<dyn Store>, numbers: &mut dyn Iterator<Item = u64>, version: u64| {
        let mut entries = Vec::new();
        loop {
            entries.clear();
            entries.extend(numbers.take(BATCH as usize).map(|number| (key(number), value(number, version))));
            if entries.is_empty() {
                break;
            }
            let began = Instant::now();
            store.write(&entries);
            slowest.set(slowest.get().max(began.elapsed().as_secs_f64()));
        }
    };
    write(&mut store, &mut (0..keys), 0);
    println!("{which}: {keys} keys written at {:.2} M/s", rate(keys, started));
    let updates = keys / 5;
    let started = Instant::now();
    let mut numbers = (0..updates).map(|n| key(n ^ 0x5555)[..8].try_into().map(u64::from_be_bytes).unwrap() % keys);
    write(&mut store, &mut numbers, 1);
    println!("{which}: written again at random at {:.2} M/s", rate(updates, started));
    let reads = updates / 10;
    let started = Instant::now();
    for n in 0..reads {
        let number = u64::from_be_bytes(key(n + 77)[..8].try_into().unwrap()) % keys;
        assert!(store.get(&key(number)).is_some());
    }
    println!("{which}: read at random at {:.3} M/s", rate(reads, started));
    let (peak, now) = memory();
    println!("{which}: memory {now} MiB, at most {peak}; disk {} MiB; slowest batch {:.0} ms", disk(&root), slowest.get() * 1e3);

    // A checkpoint, and a fork of it beside the live store.
    write(&mut store, &mut (0..100_000), 2);
    let started = Instant::now();
    store.checkpoint(&root.join("checkpoint"));
    let took = started.elapsed();
    write(&mut store, &mut (0..100_000), 3);
    let some: Vec<_> = (0..1000).map(key).collect();
    let started = Instant::now();
    let found = store.read_checkpoint(&root.join("checkpoint"), &some);
    let forked = started.elapsed();
    for (number, found) in (0..).zip(found) {
        assert_eq!(found.unwrap(), value(number, 2), "the checkpoint moved");
        assert_eq!(store.get(&key(number)).unwrap(), value(number, 3));
    }
    println!("{which}: checkpoint {:.0} ms, opened with 1000 reads in {:.0} ms", took.as_secs_f64() * 1e3, forked.as_secs_f64() * 1e3);

    // Many kept, 1 % changed between two.
    let before = disk(&root);
    let started = Instant::now();
    for version in 0..24 {
        let from = version * (keys / 100);
        write(&mut store, &mut (from..from + keys / 100), 10 + version);
        store.checkpoint(&root.join(format!("kept-{version}")));
    }
    println!("{which}: 24 kept checkpoints with 1 % changed: {} MiB more, {:.2} s each with its writes", disk(&root) - before, started.elapsed().as_secs_f64() / 24.0);
    let found = store.read_checkpoint(&root.join("checkpoint"), &some);
    assert!((0..).zip(found).all(|(number, found)| found.unwrap() == value(number, 2)), "the first one moved");
    store.settle();
    write(&mut store, &mut (0..100_000), 50);
    std::process::Command::new("sh").arg("-c").arg(format!("kill -9 {}", std::process::id())).status().unwrap();
}
