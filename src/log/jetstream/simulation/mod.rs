//! What replicas decide, without servers: a stream that loses, repeats and reorders
//! what it is sent, replicas that are killed, paused, given up and made anew, each
//! with a store of its own. Thousands of seeds; a seed that fails is printed and plays
//! the same again with `ARCPD_SIMULATION_SEED`.
//!
//! The rules are the product's ([`Entry::apply`]); the driver here only does what a
//! publisher and a job's owner do, and, in the modules below, a keeper of keys, an agent
//! that delegates, and an import.

mod agreement;
mod children;
mod imported;
mod keys;
mod owner;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::Connection;

use agreement::rows;
use keys::{For, Upstream};

use super::entry::Entry;
use crate::log::sqlite::replicas::Verdict;
use crate::log::sqlite::tally::Tally;
use crate::log::sqlite::{schema, view_ops};
use crate::log::{
    Command, GrantRow, JobRow, KNOWS, Outcome, PendingBlock, Position, ReplicaNumber, StreamId,
    first_stream,
};

const REPLICAS: usize = 3;
const SEEDS: u64 = 400;
const STEPS: usize = 120;
/// Idempotency keys, few: the same job is asked for again and again.
const KEYS: u8 = 6;
/// What a job is granted; a child that is granted nothing spends of it.
const BUDGET: &str = r#"{"cost.budget":["USD:9"]}"#;

/// A process: gone with a kill, unlike its store.
struct Life {
    origin: String,
    last: u64,
    /// Sent and not seen applied.
    unapplied: VecDeque<(u64, Bytes)>,
    /// Known once its `Join` is applied.
    replica: Option<ReplicaNumber>,
    next_stream: StreamId,
    /// The jobs that it runs: the epoch of each and its next record.
    jobs: HashMap<StreamId, (i64, u64)>,
    /// Keys that it has asked for in the log, and those that are to take the place of one.
    wanted: HashMap<String, (StreamId, For)>,
    replaces: HashMap<String, String>,
}

struct Replica {
    store: Connection,
    /// Entries of the stream in the store.
    at: usize,
    tail: Position,
    tally: Tally,
    life: Option<Life>,
}

struct World {
    random: StdRng,
    lives: u32,
    stream: Vec<Bytes>,
    network: Vec<Bytes>,
    replicas: Vec<Replica>,
    /// The job that a client was told is its key's, and an agent is its child.
    told: BTreeMap<u8, String>,
    told_child: BTreeMap<(String, String), String>,
    upstream: Upstream,
    /// Somebody was told that the import is there.
    imported: bool,
}

fn store() -> Connection {
    let store = Connection::open_in_memory().unwrap();
    schema::bring_up(&store, 0).unwrap();
    store
}

impl World {
    fn new(seed: u64) -> Self {
        let replicas = (0..REPLICAS).map(|_| Replica {
            store: store(),
            at: 0,
            tail: 0,
            tally: Tally::default(),
            life: None,
        });
        Self {
            random: StdRng::seed_from_u64(seed),
            lives: 0,
            stream: Vec::new(),
            network: Vec::new(),
            replicas: replicas.collect(),
            told: BTreeMap::new(),
            told_child: BTreeMap::new(),
            upstream: Upstream::default(),
            imported: false,
        }
    }

    /// Before all else, now and then: a store is brought in, while others join.
    fn begin(&mut self) {
        for who in [0, 1] {
            if self.random.random_bool(0.25) {
                self.start(who);
                self.import(who);
                // Alone for a while, which is long enough or not.
                for round in 0..self.random.random_range(0..60) {
                    if round % 16 == 15 {
                        self.again(who);
                    }
                    self.arrive();
                    self.apply(who);
                }
            }
        }
    }

    fn step(&mut self) {
        let who = self.random.random_range(0..REPLICAS);
        match self.random.random_range(0..100) {
            0..29 => self.arrive(),
            29..54 => self.apply(who),
            54..62 => self.submit(who),
            62..66 => self.submit_keyed(who),
            66..71 => self.delegate(who),
            71..82 => self.report(who),
            82..85 => self.give_away(who),
            85..88 => self.declare_gone(who),
            88..91 => self.kill(who),
            91..95 => drop(self.keep(who, true)),
            _ => self.again(who),
        }
        if self.replicas[who].life.is_none() {
            self.start(who);
        }
    }

    // --- the network and the stream ---

    /// Something that was sent is in the stream: whichever, perhaps not for the last time.
    fn arrive(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.network.len());
        match self.random.random_range(0..10) {
            0 => drop(self.network.swap_remove(index)),
            1 => self.stream.push(self.network[index].clone()),
            _ => {
                let arrived = self.network.swap_remove(index);
                self.stream.push(arrived);
            }
        }
    }

    fn send(&mut self, who: usize, commands: Vec<Command>, blocks: Vec<PendingBlock>) {
        let Some(life) = &mut self.replicas[who].life else {
            return;
        };
        life.last += 1;
        let entry = Entry {
            origin: life.origin.clone(),
            number: life.last,
            commands,
            blocks,
        };
        let bytes = entry.encode().unwrap();
        life.unapplied.push_back((life.last, bytes.clone()));
        self.network.push(bytes);
    }

    /// What was not applied is sent once more.
    fn again(&mut self, who: usize) {
        if let Some(life) = &self.replicas[who].life {
            let unapplied = life.unapplied.iter().map(|(_, bytes)| bytes.clone());
            self.network.extend(unapplied);
        }
    }

    /// Some more of the stream, in one transaction.
    fn apply(&mut self, who: usize) {
        let more = self.random.random_range(1..=4);
        let until = self.stream.len().min(self.replicas[who].at + more);
        self.apply_to(who, until);
    }

    fn apply_to(&mut self, who: usize, until: usize) {
        let replica = &mut self.replicas[who];
        if replica.at >= until {
            return;
        }
        let transaction = replica.store.transaction().unwrap();
        let (mut done, mut tail) = (Vec::new(), replica.tail);
        for (sequence, bytes) in (replica.at as u64 + 1..).zip(&self.stream[replica.at..until]) {
            let entry = Entry::decode(bytes).unwrap();
            let (verdict, applied) = entry.apply(&transaction, tail, sequence).unwrap();
            tail = applied.tail(tail);
            replica.tally.change(applied.changes);
            done.push((entry, verdict, applied.outcomes));
        }
        view_ops::settle(&transaction).unwrap();
        transaction.commit().unwrap();
        (replica.at, replica.tail) = (until, tail);
        self.check_children(who);
        for (entry, verdict, outcomes) in done {
            self.heard(who, &entry, verdict, outcomes);
        }
    }

    /// Of its own entries a replica learns what became of them; of others' what is its.
    fn heard(&mut self, who: usize, entry: &Entry, verdict: Verdict, outcomes: Vec<Outcome>) {
        let Some(life) = &mut self.replicas[who].life else {
            return;
        };
        let own = life.origin == entry.origin;
        match verdict {
            Verdict::Fenced if own => self.replicas[who].life = None,
            Verdict::Gap if own => self.again(who),
            Verdict::Apply(number) => {
                if own {
                    life.replica = Some(number);
                    life.next_stream = life.next_stream.max(first_stream(number));
                    life.unapplied.retain(|(sent, _)| *sent > entry.number);
                    self.answer(who, &entry.commands, outcomes);
                }
                self.take_up(who);
            }
            _ => {}
        }
    }

    // --- what a client is told ---

    fn answer(&mut self, who: usize, commands: &[Command], outcomes: Vec<Outcome>) {
        for (command, outcome) in commands.iter().zip(outcomes) {
            match (command, outcome) {
                (Command::CreateJob { job, .. }, Outcome::Done) => self.made(job, &job.id),
                (Command::CreateJob { job, .. }, Outcome::Duplicate(earlier)) => {
                    self.made(job, &earlier.id);
                }
                (Command::IntendCredential(row), Outcome::Done) => self.intended(who, &row.handle),
                (Command::CredentialIssued(row), Outcome::Done) => self.issued(who, &row.handle),
                (Command::ImportEnd { .. }, Outcome::Done) => self.imported = true,
                _ => {}
            }
        }
    }

    /// A client is told of its job, or an agent of its child.
    fn made(&mut self, asked: &JobRow, id: &str) {
        let grant = &asked.grant;
        let told = match (&grant.parent_id, &grant.delegate_id) {
            (Some(parent), Some(name)) => {
                let named = self.told_child.entry((parent.clone(), name.clone()));
                named.or_insert_with(|| id.into())
            }
            _ => {
                let keyed = self.told.entry(asked.fingerprint[0]);
                keyed.or_insert_with(|| id.into())
            }
        };
        assert_eq!(*told, id, "two jobs for {asked:?}");
    }

    // --- what replicas do ---

    fn start(&mut self, who: usize) {
        self.lives += 1;
        if self.random.random_bool(0.1) {
            // The file is gone with the machine.
            let replica = &mut self.replicas[who];
            (replica.store, replica.at, replica.tail) = (store(), 0, 0);
            replica.tally = Tally::default();
        }
        // It reads what there is before it joins.
        self.apply_to(who, self.stream.len());
        let origin = format!("life {}", self.lives);
        self.replicas[who].life = Some(Life {
            origin: origin.clone(),
            last: 0,
            unapplied: VecDeque::new(),
            replica: None,
            next_stream: 0,
            jobs: HashMap::new(),
            wanted: HashMap::new(),
            replaces: HashMap::new(),
        });
        let knows = KNOWS;
        let join = Command::Join {
            name: origin,
            knows,
        };
        self.send(who, vec![join], Vec::new());
    }

    fn kill(&mut self, who: usize) {
        self.replicas[who].life = None;
    }
}

pub(super) fn job(stream: StreamId, key: u8) -> JobRow {
    JobRow {
        id: format!("job_{stream}"),
        stream,
        session_id: String::new(),
        principal: "alice".into(),
        agent: "a@1.0.0".into(),
        input_json: "null".into(),
        trace_id: "t".into(),
        created_at_ms: 1,
        status: "running".into(),
        ended_at_ms: None,
        last_seq: 0,
        end_position: None,
        idempotency_key: Some(format!("key {key}")),
        fingerprint: vec![key],
        idempotency_expires_at_ms: Some(i64::MAX),
        grant: GrantRow {
            lease_json: BUDGET.into(),
            ..GrantRow::default()
        },
    }
}

fn play(seed: u64) -> World {
    let mut world = World::new(seed);
    world.begin();
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check();
    world
}

#[test]
fn replicas_agree_whatever_the_stream_and_the_processes_do() {
    if let Ok(seed) = std::env::var("ARCPD_SIMULATION_SEED") {
        play(seed.parse().unwrap());
        return;
    }
    let given = std::env::var("ARCPD_SIMULATION_SEEDS");
    let seeds = given.map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (mut jobs, mut records, mut children, mut keys, mut imports) = (0, 0, 0, 0, 0);
    for seed in 0..seeds {
        let played = std::panic::catch_unwind(|| {
            let world = play(seed);
            let count = |sql| rows(&world.replicas[0].store, sql)[0][0];
            [
                count("SELECT count(*) FROM job"),
                count("SELECT coalesce(sum(count), 0) FROM block"),
                count("SELECT count(*) FROM job WHERE parent_id IS NOT NULL"),
                world.upstream.made_count(),
                i64::from(world.imported),
            ]
        });
        let Ok(of_seed) = played else {
            panic!("seed {seed}: play it with ARCPD_SIMULATION_SEED={seed}");
        };
        jobs += of_seed[0];
        records += of_seed[1];
        children += of_seed[2];
        keys += of_seed[3];
        imports += of_seed[4];
    }
    println!(
        "{seeds} seeds: {jobs} jobs, {children} of them children, {records} records, {keys} keys, \
         {imports} imports"
    );
    // The scripts do something.
    let least = seeds as i64;
    assert!(jobs > least && records > least);
    assert!(children * 4 > least && keys * 4 > least && imports * 20 > least);
}
