//! AMD's normalized addresses: Linux' translation against ours.

use ras_core::translate::amd::{DramMap, Register, Revision, Station};
use ras_core::translate::{NormalizedAddr, Snapshot, StationId};
use serde::Deserialize;
use serde_json::Value;

use super::{Case, Fact, at, number};

#[derive(Deserialize)]
struct Input {
    rev: u8,
    mode: u32,
    channels: u32,
    channel: u8,
    norm: String,
    base: Register,
    limit: Register,
    ctl: Register,
    intlv: Register,
    hole: Register,
    comp_mask: Register,
    node_shift: u32,
    sock_mask: Register,
    die_mask: Register,
}

impl Input {
    /// The registers that make the masks of the case, each station's identifier being its number.
    fn snapshot(&self) -> Option<Snapshot> {
        let (revision, fabric_id_mask) = match self.rev {
            1 => {
                let [die, socket] = [self.die_mask.0, self.sock_mask.0];
                let shifts = socket.trailing_zeros() << 28 | die.trailing_zeros() << 24;
                (Revision::Df2, vec![Register(shifts | socket << 16 | die << 8)])
            }
            2 => {
                let node = self.sock_mask.0 | self.die_mask.0;
                let socket = self.sock_mask.0 >> self.node_shift;
                let die = self.die_mask.0 >> self.node_shift;
                let shift = socket.trailing_zeros();
                (
                    Revision::Df3,
                    vec![
                        Register(node << 16 | self.comp_mask.0),
                        Register(socket << 24 | die << 16 | shift << 8 | self.node_shift),
                    ],
                )
            }
            4 | 5 => {
                let node = self.sock_mask.0 | self.die_mask.0;
                let socket = self.sock_mask.0 >> self.node_shift;
                let die = self.die_mask.0 >> self.node_shift;
                let shift = socket.trailing_zeros();
                (
                    if self.rev == 4 { Revision::Df4 } else { Revision::Df4_5 },
                    vec![
                        Register(node << 16 | self.comp_mask.0),
                        Register(shift << 8 | self.node_shift),
                        Register(socket << 16 | die),
                    ],
                )
            }
            _ => return None,
        };
        let map = DramMap {
            base: self.base,
            limit: self.limit,
            ctl: Some(self.ctl),
            intlv: Some(self.intlv),
            offset: None,
        };
        let stations = (0..self.channels.to_le_bytes()[0]).map(|instance| Station {
            socket: 0,
            die: 0,
            instance,
            block_instance_information: Some(Register(u32::from(instance) << 8)),
            maps: vec![map],
            target_remap: vec![],
            np2_channel_config: None,
        });
        Some(Snapshot {
            revision,
            device_vendor_id: Register(0),
            fabric_id_mask,
            dram_hole_control: self.hole,
            apic: None,
            umc: None,
            stations: stations.collect(),
        })
    }
}

pub(super) fn facts(case: &Case) -> Vec<Fact> {
    let Some(linux) = at(&case.expected, &["linux-6.12.117", "sys_addr"]).and_then(number) else {
        return Vec::new();
    };
    let Ok(input) = Input::deserialize(&case.input) else { return Vec::new() };
    let norm = number(&Value::String(input.norm.clone())).map(NormalizedAddr);
    let ours = input.snapshot().zip(norm).and_then(|(snapshot, norm)| {
        let station = StationId { socket: 0, die: 0, instance: input.channel };
        let system = snapshot.system_address(station, norm).ok()?;
        // Whatever the address is, the way back has to lead to the same channel.
        (snapshot.normalized_address(system) == Ok((station, norm))).then_some(system.0)
    });
    let shown = |address: u64| format!("{address:#x}");
    let mut fact = Fact::new("system address", vec![("linux", shown(linux))], ours.map(shown));
    // Sixteen channels by 2 KiB.
    if input.mode == 0x43 && input.channel >= 8 {
        fact.peer_wrong = Some("Linux leaves channel bit 3 out: two channels get one address");
    }
    vec![fact]
}
