//! A guest that is only its QMP socket, and behaves as a story wants it to. Its memory is this
//! process's, so that `rasd` has to find pages in a real page table.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use ras_core::{PAGE_SIZE, Pfn};
use serde_json::{Value, json};

/// Guest physical address of the guest's only region.
pub(crate) const BASE: u64 = 0x1_0000_0000;

/// What a guest does when it is asked to give memory up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Behaviour {
    GivesUp,
    Refuses,
    /// Closes the connection instead of answering.
    HangsUp,
    /// Answers what is no QMP.
    TalksNonsense,
    /// Never answers.
    SaysNothing,
}

/// The guest. Its socket is served until the process ends.
pub(crate) struct FakeGuest {
    memory: Arc<Vec<u8>>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    migrated: bool,
    calls: Vec<String>,
}

impl FakeGuest {
    /// Listens at `DIR/NAME.qmp`.
    pub(crate) fn start(dir: &Path, name: &str, behaviour: Behaviour) -> Self {
        let listener = UnixListener::bind(dir.join(format!("{name}.qmp"))).unwrap();
        // Written to, so that every page is present.
        let memory = Arc::new(vec![0xa5; 64 * 4096]);
        let shared = Shared { behaviour, migrated: false, calls: Vec::new() };
        let guest = Self { memory, shared: Arc::new(Mutex::new(shared)) };
        let (memory, shared, name) = (guest.memory.clone(), guest.shared.clone(), name.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (memory, shared, name) = (memory.clone(), shared.clone(), name.clone());
                // A client that hangs up ends its thread.
                std::thread::spawn(move || serve(&stream.unwrap(), &memory, &shared, &name));
            }
        });
        guest
    }

    /// Commands that change something, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.shared.lock().unwrap().calls.clone()
    }

    /// The host frame behind the guest's `page`th page, from this process's own page table.
    pub(crate) fn frame(&self, page: u64) -> Pfn {
        use std::os::unix::fs::FileExt;
        let mut entry = [0; 8];
        let at = (start(&self.memory) / PAGE_SIZE + page) * 8;
        std::fs::File::open("/proc/self/pagemap").unwrap().read_exact_at(&mut entry, at).unwrap();
        Pfn(u64::from_ne_bytes(entry) & ((1 << 55) - 1))
    }
}

fn start(memory: &[u8]) -> u64 {
    (memory.as_ptr() as u64).next_multiple_of(PAGE_SIZE)
}

fn serve(stream: &UnixStream, memory: &[u8], shared: &Mutex<Shared>, name: &str) {
    let say = |value: &Value| (&*stream).write_all(format!("{value}\n").as_bytes());
    let greeting = json!({ "QMP": { "version": {}, "capabilities": [] } });
    if say(&greeting).is_err() {
        return;
    }
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let request: Value = serde_json::from_str(&line).unwrap();
        let command = request["execute"].as_str().unwrap().to_owned();
        let arguments = &request["arguments"];
        let answer = {
            let mut shared = shared.lock().unwrap();
            let migrated = shared.migrated;
            match command.as_str() {
                "qmp_capabilities" => json!({}),
                "query-status" => {
                    let status = if migrated { "postmigrate" } else { "running" };
                    json!({ "status": status, "running": !migrated })
                }
                "x-ras-memory-map" => json!({
                    "name": name, "pid": std::process::id(), "poisoned": [],
                    "regions": [{
                        "gpa": BASE, "size": 63 * PAGE_SIZE, "hva": start(memory),
                        "kind": "virtio-mem",
                    }],
                }),
                "x-ras-retire-range" => {
                    let (gpa, size) = (&arguments["gpa"], &arguments["size"]);
                    shared.calls.push(format!("retire {gpa} {size} {}", arguments["cause"]));
                    match shared.behaviour {
                        Behaviour::GivesUp => json!({ "outcome": "unplugged", "elapsed-us": 7 }),
                        Behaviour::Refuses => json!({
                            "outcome": "refused", "detail": "the guest keeps it", "elapsed-us": 7,
                        }),
                        Behaviour::HangsUp => return,
                        Behaviour::TalksNonsense => {
                            let _ = (&*stream).write_all(b"Segmentation fault\n");
                            continue;
                        }
                        Behaviour::SaysNothing => continue,
                    }
                }
                "migrate" => {
                    shared.calls.push(format!("migrate {}", arguments["uri"].as_str().unwrap()));
                    shared.migrated = true;
                    json!({})
                }
                "query-migrate" if migrated => json!({ "status": "completed", "total-time": 1 }),
                "query-migrate" => json!({}),
                other => panic!("unexpected command {other}"),
            }
        };
        if say(&json!({ "return": answer, "id": request["id"] })).is_err() {
            return;
        }
    }
}
