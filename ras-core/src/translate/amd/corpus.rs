//! Agreement with Linux's own code, where a directory of its answers is at hand.

extern crate std;

use std::path::Path;
use std::string::String;
use std::{env, eprintln, format, fs};

use serde::Deserialize;

use super::*;
use alloc::vec;
use alloc::vec::Vec;

#[derive(Deserialize)]
struct Case {
    id: String,
    input: Input,
    expected: serde_json::Map<String, serde_json::Value>,
}

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
    fn snapshot(&self) -> Snapshot {
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
            other => panic!("revision {other}"),
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
        Snapshot {
            revision,
            device_vendor_id: Register(0),
            fabric_id_mask,
            dram_hole_control: self.hole,
            apic: None,
            umc: None,
            stations: stations.collect(),
        }
    }
}

/// Linux puts bits 0 to 2 of the channel into the address and leaves bit 3 out, where there are 16
/// channels by 2 KiB (its mode 0x43): the channels from 8 up get the addresses of those from 0 up.
/// We put it at bit 14, for which Linux makes room and undoes the hash, too.
fn linux_drops_channel_bit_3(input: &Input) -> bool {
    input.mode == 0x43 && input.channel >= 8
}

#[test]
fn agrees_with_linux() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let directory = env::var_os("RAS_CORPUS").map_or(beside, Into::into);
    let Ok(text) = fs::read_to_string(directory.join("amd-atl.jsonl")) else {
        eprintln!("skipped: no amd-atl.jsonl in {}; RAS_CORPUS can name it", directory.display());
        return;
    };
    let (mut agree, mut explained, mut wrong) = (0, 0, Vec::new());
    for line in text.lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let (_, linux) = case.expected.iter().next().unwrap();
        let linux = PhysAddr(number(linux["sys_addr"].as_str().unwrap()));
        let snapshot = case.input.snapshot();
        let norm = NormalizedAddr(number(&case.input.norm));
        let station = |instance| StationId { socket: 0, die: 0, instance };
        let here = station(case.input.channel);
        let ours = snapshot.system_address(here, norm);
        // Whatever the address is, the way back leads to the same channel.
        let back = ours.and_then(|system| snapshot.normalized_address(system));
        if back != Ok((here, norm)) {
            wrong.push(format!("{}: back from {ours:?} to {back:?}", case.id));
        } else if ours == Ok(linux) {
            agree += 1;
        } else if linux_drops_channel_bit_3(&case.input)
            && snapshot.system_address(station(case.input.channel - 8), norm) == Ok(linux)
        {
            explained += 1;
        } else {
            wrong.push(format!("{}: {ours:?}, Linux {linux:?}", case.id));
        }
    }
    eprintln!("{agree} agree, {explained} where Linux gives two channels one address");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(agree > 0);
}
