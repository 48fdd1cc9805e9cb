//! What QMP clients can ask of a machine: QEMU's commands under QEMU's names, and `x-ras-*`.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ras_core::Gpa;
use ras_qmp::ras::{MemoryMap, PoisonedPage, Region, RegionKind, RetireCause};
use ras_qmp::{CommandError, ErrorClass, Handler, RunState};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::devices::virtio::mem::BLOCK_SIZE;
use crate::lock;
use crate::machine::{Cause, VIRTIO_MEM_ID, VIRTIO_MEM_PATH};
use crate::memory::ladder::{self, Request};
use crate::memory::mapping;
use crate::migrate::{self, Migration, Parameters, Status, Uri};
use crate::policy::{Choice, WatchdogAction};
use crate::vm::{Ending, Vm};

/// Deadline of `x-ras-retire-range` where the client names none.
const RETIRE_TIMEOUT_MS: u64 = 5000;

/// Longest deadline a client may name.
const RETIRE_TIMEOUT_MAX_MS: u64 = 10 * 60 * 1000;

/// Answers QMP clients. Shared by their threads.
#[derive(Debug)]
pub struct Control {
    vm: Arc<Vm>,
    fault_injection: bool,
    parameters: Mutex<Parameters>,
    /// The last outgoing migration.
    migration: Mutex<Option<Arc<Migration>>>,
}

type Answer = Result<Value, CommandError>;
type Command = fn(&Control, Value) -> Answer;

/// Every command, with what carries it out.
const COMMANDS: &[(&str, Command)] = &[
    ("query-commands", |_, arguments| none(arguments).map(|()| commands())),
    ("query-version", |_, arguments| none(arguments).map(|()| version())),
    ("query-name", |control, arguments| {
        none(arguments).map(|()| json!({ "name": control.vm.machine().name() }))
    }),
    ("query-status", |control, arguments| none(arguments).map(|()| control.status())),
    ("stop", |control, arguments| none(arguments).and_then(|()| done(control.vm.stop()))),
    ("cont", |control, arguments| none(arguments).and_then(|()| done(control.vm.cont()))),
    ("set-action", |control, arguments| parse(arguments).map(|choice| control.choose(choice))),
    ("watchdog-set-action", |control, arguments| {
        parse(arguments).map(|WatchdogSetAction { action }| control.choose(action.into()))
    }),
    ("system_reset", |control, arguments| none(arguments).and_then(|()| control.reset())),
    ("inject-nmi", |control, arguments| {
        none(arguments).and_then(|()| done(control.vm.inject_nmi()))
    }),
    ("quit", |control, arguments| none(arguments).map(|()| control.quit())),
    ("qom-get", Control::qom_get),
    ("qom-set", Control::qom_set),
    ("query-memory-devices", |control, arguments| {
        none(arguments).map(|()| control.memory_devices())
    }),
    ("migrate", Control::migrate),
    ("migrate_cancel", |control, arguments| none(arguments).map(|()| control.cancel())),
    ("query-migrate", |control, arguments| none(arguments).and_then(|()| control.migrating())),
    ("migrate-set-parameters", Control::set_parameters),
    ("query-migrate-parameters", |control, arguments| {
        none(arguments).map(|()| control.get_parameters())
    }),
    ("x-ras-memory-map", |control, arguments| none(arguments).and_then(|()| control.memory_map())),
    ("x-ras-retire-range", Control::retire_range),
    ("x-ras-inject-poison", Control::inject_poison),
];

impl Handler for Control {
    fn execute(&self, command: &str, arguments: &Map<String, Value>) -> Answer {
        let known = COMMANDS.iter().find(|(name, _)| *name == command);
        let (_, carry_out) = known.ok_or_else(|| CommandError::not_found(command))?;
        carry_out(self, Value::Object(arguments.clone()))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Property {
    path: String,
    property: String,
    #[serde(default)]
    value: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchdogSetAction {
    action: WatchdogAction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrateTo {
    uri: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SetParameters {
    downtime_limit: Option<u64>,
    max_bandwidth: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RetireRange {
    gpa: Gpa,
    size: u64,
    cause: RetireCause,
    timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InjectPoison {
    gpa: Gpa,
}

impl Control {
    /// Answers for `vm`.
    #[must_use]
    pub fn new(vm: Arc<Vm>, fault_injection: bool) -> Self {
        let (parameters, migration) = (Mutex::default(), Mutex::default());
        Self { vm, fault_injection, parameters, migration }
    }

    fn status(&self) -> Value {
        let state = self.vm.state();
        json!({ "running": state == RunState::Running, "singlestep": false, "status": state })
    }

    fn choose(&self, choice: Choice) -> Value {
        self.vm.machine().actions().choose(choice);
        json!({})
    }

    fn reset(&self) -> Answer {
        let moving = [RunState::Inmigrate, RunState::FinishMigrate, RunState::Postmigrate];
        match self.vm.state() {
            state if moving.contains(&state) => {
                Err(CommandError::generic(crate::vm::WrongState(state)))
            }
            _ => {
                self.vm.system_reset(Cause::HostQmpSystemReset);
                Ok(json!({}))
            }
        }
    }

    fn quit(&self) -> Value {
        let machine = self.vm.machine();
        machine.emit("SHUTDOWN", json!({ "guest": false, "reason": Cause::HostQmpQuit }));
        machine.lifecycle().end(Ending::Clean);
        json!({})
    }

    fn qom_get(&self, arguments: Value) -> Answer {
        let Property { path, property, value } = parse(arguments)?;
        if value.is_some() {
            return Err(CommandError::argument("value", "to be absent"));
        }
        let transport = self.vm.machine().virtio_mem().filter(|_| is_virtio_mem(&path));
        let transport = transport.ok_or_else(|| no_device(&path))?;
        let device = transport.device();
        match property.as_str() {
            "requested-size" => Ok(json!(device.requested_size())),
            "size" => Ok(json!(device.blocks().plugged_size())),
            "block-size" => Ok(json!(BLOCK_SIZE)),
            "memaddr" => Ok(json!(device.blocks().start())),
            _ => Err(no_property(&path, &property)),
        }
    }

    fn qom_set(&self, arguments: Value) -> Answer {
        let Property { path, property, value } = parse(arguments)?;
        let machine = self.vm.machine();
        let transport = machine.virtio_mem().filter(|_| is_virtio_mem(&path));
        let mut transport = transport.ok_or_else(|| no_device(&path))?;
        if property != "requested-size" {
            return Err(no_property(&path, &property));
        }
        let size = value.ok_or_else(|| CommandError::argument("value", "a number of bytes"))?;
        done(machine.resize(&mut transport, size))
    }

    fn memory_devices(&self) -> Value {
        let Some(transport) = self.vm.machine().virtio_mem() else { return json!([]) };
        let device = transport.device();
        json!([{
            "type": "virtio-mem",
            "data": {
                "id": VIRTIO_MEM_ID,
                "memaddr": device.blocks().start(),
                "requested-size": device.requested_size(),
                "size": device.blocks().plugged_size(),
                "max-size": device.blocks().size(),
                "block-size": BLOCK_SIZE,
                "node": 0,
                "memdev": "/objects/vmem0",
            },
        }])
    }

    fn memory_map(&self) -> Answer {
        let machine = self.vm.machine();
        let regions = machine.ram().regions().iter().map(|region| Region {
            gpa: region.gpa(),
            size: region.size(),
            hva: region.hva() as u64,
            kind: match region.kind() {
                mapping::RegionKind::Ram => RegionKind::Ram,
                mapping::RegionKind::VirtioMem => RegionKind::VirtioMem,
            },
        });
        let list = machine.poison().list();
        // A page that was only said to be failing, and is still in use, is not poisoned.
        let bad = list.iter().filter(|page| page.lost || page.held);
        let poisoned =
            bad.map(|page| PoisonedPage { gpa: page.gpa, pfn: page.pfn, held: page.held });
        let map = MemoryMap {
            name: machine.name().to_owned(),
            pid: std::process::id(),
            regions: regions.collect(),
            poisoned: poisoned.collect(),
        };
        serde_json::to_value(map).map_err(CommandError::generic)
    }

    fn retire_range(&self, arguments: Value) -> Answer {
        let RetireRange { gpa, size, cause, timeout_ms } = parse(arguments)?;
        let timeout_ms = timeout_ms.unwrap_or(RETIRE_TIMEOUT_MS).min(RETIRE_TIMEOUT_MAX_MS);
        let timeout = Duration::from_millis(timeout_ms);
        let answer = ladder::retire(&self.vm, Request { gpa, size, cause, timeout });
        let answer = answer.map_err(CommandError::generic)?;
        serde_json::to_value(answer).map_err(CommandError::generic)
    }

    fn inject_poison(&self, arguments: Value) -> Answer {
        let InjectPoison { gpa } = parse(arguments)?;
        if !self.fault_injection {
            let why = "fault injection is off; start rasvmm with --allow-fault-injection";
            return Err(CommandError::generic(why));
        }
        let machine = self.vm.machine();
        if !machine.is_populated(gpa) {
            return Err(CommandError::generic(format_args!("the guest has no memory at {gpa}")));
        }
        let pfn = machine
            .ram()
            .poison(gpa)
            .map_err(|error| CommandError::generic(migrate::chain(&error)))?;
        machine.poison().note_lost(gpa, pfn);
        Ok(json!({ "pfn": machine.frame(gpa) }))
    }

    fn migrate(&self, arguments: Value) -> Answer {
        let MigrateTo { uri } = parse(arguments)?;
        let uri: Uri = uri.parse().map_err(CommandError::generic)?;
        if !matches!(self.vm.state(), RunState::Running | RunState::Paused) {
            return Err(CommandError::generic(crate::vm::WrongState(self.vm.state())));
        }
        let mut current = lock(&self.migration);
        if current.as_ref().is_some_and(|migration| {
            matches!(migration.stats().status, Status::Setup | Status::Active)
        }) {
            return Err(CommandError::generic("There's a migration process in progress"));
        }
        let name = self.vm.machine().name();
        let migration = Arc::new(Migration::new(name, uri, *lock(&self.parameters)));
        let (vm, running) = (Arc::clone(&self.vm), Arc::clone(&migration));
        vm.machine().emit("MIGRATION", json!({ "status": "setup" }));
        thread::Builder::new()
            .name("migration".to_owned())
            .spawn(move || {
                let outcome = running.run(vm.as_ref());
                vm.migrated(&outcome);
                vm.machine().emit("MIGRATION", json!({ "status": running.stats().status }));
            })
            .map_err(CommandError::generic)?;
        *current = Some(migration);
        Ok(json!({}))
    }

    fn cancel(&self) -> Value {
        if let Some(migration) = lock(&self.migration).as_ref() {
            migration.cancel();
        }
        json!({})
    }

    fn migrating(&self) -> Answer {
        match lock(&self.migration).as_ref() {
            Some(migration) => {
                serde_json::to_value(migration.stats()).map_err(CommandError::generic)
            }
            None => Ok(json!({})),
        }
    }

    fn set_parameters(&self, arguments: Value) -> Answer {
        let SetParameters { downtime_limit, max_bandwidth } = parse(arguments)?;
        let mut parameters = lock(&self.parameters);
        if let Some(limit) = downtime_limit {
            // QEMU's own bound: 2000 seconds.
            if limit > 2_000_000 {
                let wanted = "an integer in the range of 0 to 2000000 milliseconds";
                return Err(CommandError::argument("downtime-limit", wanted));
            }
            parameters.downtime_limit = Duration::from_millis(limit);
        }
        if let Some(bandwidth) = max_bandwidth {
            parameters.bandwidth_max = (bandwidth > 0).then_some(bandwidth);
        }
        Ok(json!({}))
    }

    fn get_parameters(&self) -> Value {
        let parameters = lock(&self.parameters);
        let limit = u64::try_from(parameters.downtime_limit.as_millis()).unwrap_or(u64::MAX);
        json!({
            "downtime-limit": limit,
            "max-bandwidth": parameters.bandwidth_max.unwrap_or(0),
        })
    }
}

fn parse<T: DeserializeOwned>(arguments: Value) -> Result<T, CommandError> {
    serde_json::from_value(arguments).map_err(CommandError::generic)
}

fn none(arguments: Value) -> Result<(), CommandError> {
    parse::<Nothing>(arguments).map(|Nothing {}| ())
}

fn done<E: std::fmt::Display>(result: Result<(), E>) -> Answer {
    result.map(|()| json!({})).map_err(CommandError::generic)
}

fn commands() -> Value {
    COMMANDS.iter().map(|(name, _)| json!({ "name": name })).collect()
}

fn version() -> Value {
    json!({
        "qemu": { "major": 5, "minor": 1, "micro": 0 },
        "package": concat!("rasvmm-", env!("CARGO_PKG_VERSION")),
    })
}

fn is_virtio_mem(path: &str) -> bool {
    path == VIRTIO_MEM_PATH || path == VIRTIO_MEM_ID
}

fn no_device(path: &str) -> CommandError {
    let desc = format!("Device '{path}' not found; the memory device is {VIRTIO_MEM_PATH}");
    CommandError { class: ErrorClass::DeviceNotFound, desc }
}

fn no_property(path: &str, property: &str) -> CommandError {
    CommandError::generic(format_args!("Property '{path}.{property}' not found"))
}
