//! Machine-check register sets as the decoders meet them, and the text the kernel prints of them.

use std::fmt::Write as _;

use super::random::Random;

/// One bank's registers, the fields every decoder in the bench takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Registers {
    /// The kernel's number of the maker: 0 Intel, 2 AMD.
    pub(super) vendor: u8,
    /// CPUID leaf 1, EAX.
    pub(super) cpuid: u32,
    pub(super) bank: u8,
    pub(super) mcg_cap: u64,
    pub(super) mcg_status: u64,
    pub(super) status: u64,
    pub(super) addr: u64,
    pub(super) misc: u64,
    pub(super) synd: u64,
    pub(super) ipid: u64,
}

/// Which processors a file of register sets comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Maker {
    /// Nine server generations, Nehalem to Granite Rapids.
    Intel,
    /// Scalable MCA, families 17h to 1Ah.
    Smca,
    /// Families 0Fh and 10h, the ones the peers decode.
    AmdBefore,
}

impl Maker {
    pub(super) const ALL: [Self; 3] = [Self::Intel, Self::Smca, Self::AmdBefore];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Intel => "Intel",
            Self::Smca => "AMD, scalable MCA",
            Self::AmdBefore => "AMD, families 0Fh and 10h",
        }
    }

    pub(super) const fn file_stem(self) -> &'static str {
        match self {
            Self::Intel => "intel",
            Self::Smca => "smca",
            Self::AmdBefore => "amd-before-smca",
        }
    }
}

const VAL: u64 = 1 << 63;
const OVER: u64 = 1 << 62;
const UC: u64 = 1 << 61;
const EN: u64 = 1 << 60;
const MISCV: u64 = 1 << 59;
const ADDRV: u64 = 1 << 58;
const PCC: u64 = 1 << 57;
const SIGNALLED: u64 = 1 << 56;
const ACTION_REQUIRED: u64 = 1 << 55;
const SYNDV: u64 = 1 << 53;
const CECC: u64 = 1 << 46;
const DEFERRED: u64 = 1 << 44;
const RIPV_MCIP: u64 = 1 << 2 | 1;

/// CPUID signatures with the bank their integrated memory controllers begin at.
const INTEL_CPUS: [(u32, u8); 9] = [
    (0x106a5, 8),
    (0x206d7, 5),
    (0x306e4, 9),
    (0x306f2, 7),
    (0x406f1, 7),
    (0x50657, 7),
    (0x606a6, 13),
    (0x806f8, 13),
    (0xa06d1, 13),
];

/// Architectural codes, each with whether the memory controller reports it.
const INTEL_CODES: [(u16, bool); 10] = [
    (0x0091, true),
    (0x009f, true),
    (0x00c0, true),
    (0x00a1, true),
    (0x0134, false),
    (0x0179, false),
    (0x0014, false),
    (0x0e0b, false),
    (0x0402, false),
    (0x0005, false),
];

const SMCA_CPUS: [u32; 5] = [0x80_0f12, 0x83_0f10, 0xa0_0f11, 0xa1_0f11, 0xb0_0f21];

/// Hardware id, MCA type and the bank it is usually found at.
const SMCA_BANKS: [(u64, u64, u8); 9] = [
    (0x96, 0, 17),
    (0x96, 0, 21),
    (0xb0, 0x10, 0),
    (0xb0, 1, 1),
    (0xb0, 2, 2),
    (0xb0, 7, 7),
    (0x2e, 2, 23),
    (0x2e, 1, 27),
    (0x01, 1, 22),
];

/// Of the transactions, memory (RRRR TT LL), TLB, bus and internal codes.
const AMD_CODES: [u16; 6] = [0x011b, 0x0135, 0x0015, 0x0859, 0x0e0b, 0x0405];

/// Register sets of `maker`, the same ones at every call.
pub(super) fn sets(maker: Maker, count: usize) -> Vec<Registers> {
    let mut random = Random::new(0x6d63_6520 + maker as u64);
    let one = |_| match maker {
        Maker::Intel => intel(&mut random),
        Maker::Smca => smca(&mut random),
        Maker::AmdBefore => amd_before(&mut random),
    };
    (0..count).map(one).collect()
}

fn intel(random: &mut Random) -> Registers {
    let (cpuid, controller) = random.pick(&INTEL_CPUS);
    let (code, memory) = random.pick(&INTEL_CODES);
    let (grade, mcg_status) = match random.below(8) {
        0 => (UC | EN | PCC, RIPV_MCIP),
        1 => (UC | EN | SIGNALLED, RIPV_MCIP),
        2 => (UC | EN | SIGNALLED | ACTION_REQUIRED, RIPV_MCIP),
        3 => (UC, 0),
        4 => (OVER, 0),
        _ => (0, 0),
    };
    let count = match grade & UC {
        0 => 1 + random.below(20),
        _ => 0,
    };
    let specific = random.pick(&[0x0000_u64, 0x0001, 0x0008, 0x0010, 0x0101]);
    Registers {
        vendor: 0,
        cpuid,
        bank: if memory { controller } else { random.pick(&[0, 1, 2, 3]) },
        mcg_cap: 0x0f00_0c14,
        mcg_status,
        status: VAL | MISCV | ADDRV | grade | count << 38 | specific << 16 | u64::from(code),
        addr: page(random),
        // Physical address mode, a page's granularity; the upper bits are the model's own.
        misc: 0x8c | random.below(1 << 24) << 16,
        synd: 0,
        ipid: 0,
    }
}

fn smca(random: &mut Random) -> Registers {
    let (hardware_id, mca_type, bank) = random.pick(&SMCA_BANKS);
    let (grade, mcg_status) = match random.below(6) {
        0 => (UC | EN | PCC, RIPV_MCIP),
        1 => (UC | EN | MISCV, RIPV_MCIP),
        2 => (DEFERRED, 0),
        _ => (CECC | MISCV, 0),
    };
    let extended = random.below(5);
    Registers {
        vendor: 2,
        cpuid: random.pick(&SMCA_CPUS),
        bank,
        mcg_cap: 0x0000_011c,
        mcg_status,
        status: VAL | ADDRV | SYNDV | grade | extended << 16 | u64::from(random.pick(&AMD_CODES)),
        addr: page(random),
        misc: 0xd01a_0000_0000_0000,
        synd: random.below(1 << 48),
        ipid: mca_type << 48 | hardware_id << 32 | random.below(16) << 20 | 0x0005_0f00,
    }
}

fn amd_before(random: &mut Random) -> Registers {
    let bank = random.pick(&[0, 1, 2, 3, 4, 4, 4]);
    let extended = match bank {
        4 => random.pick(&[0_u64, 1, 2, 7, 8, 0xb]),
        _ => random.below(2),
    };
    let grade = random.pick(&[CECC, CECC, CECC | OVER, UC | EN, UC | EN | PCC]);
    let syndrome = random.below(0x100);
    Registers {
        vendor: 2,
        cpuid: random.pick(&[0x2_0f12, 0x10_0f42]),
        bank,
        mcg_cap: 0x0000_0106,
        mcg_status: 0,
        status: VAL
            | ADDRV
            | grade
            | syndrome << 47
            | extended << 16
            | u64::from(random.pick(&AMD_CODES[..5])),
        addr: page(random),
        misc: 0,
        synd: 0,
        ipid: 0,
    }
}

/// One of a few thousand pages: errors come back to where they were.
fn page(random: &mut Random) -> u64 {
    0x1_0000_0000 + (random.below(4096) << 12) + (random.below(64) << 6)
}

impl Registers {
    /// The line the drivers read.
    pub(super) fn line(&self) -> String {
        format!(
            "{:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x} {:x}\n",
            self.vendor,
            self.cpuid,
            self.bank,
            self.mcg_cap,
            self.mcg_status,
            self.status,
            self.addr,
            self.misc,
            self.synd,
            self.ipid
        )
    }

    /// The lines of the kernel's `print_mce`, each with the log's time before it. `seconds` is both
    /// the log's time and, from a fixed day on, the event's.
    pub(super) fn print(&self, cpu: u64, seconds: u64, out: &mut String) {
        let before = format!("[{seconds:>5}.000000] mce: [Hardware Error]: ");
        let exception = if self.mcg_status == 0 { "" } else { " Exception" };
        let _ = writeln!(
            out,
            "{before}CPU {cpu}: Machine Check{exception}: {:x} Bank {}: {:016x}",
            self.mcg_status, self.bank, self.status
        );
        let _ = write!(out, "{before}TSC 0 ");
        for (name, value) in [("ADDR", self.addr), ("MISC", self.misc)] {
            if value != 0 {
                let _ = write!(out, "{name} {value:x} ");
            }
        }
        if self.ipid != 0 {
            let _ = write!(out, "SYND {:x} IPID {:x} ", self.synd, self.ipid);
        }
        let _ = writeln!(
            out,
            "\n{before}PROCESSOR {}:{:x} TIME {} SOCKET 0 APIC {cpu:x} microcode d0003a5",
            self.vendor,
            self.cpuid,
            1_700_000_000 + seconds
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_sets_are_the_same_at_every_call() {
        for maker in Maker::ALL {
            assert_eq!(sets(maker, 100), sets(maker, 100));
            assert!(sets(maker, 100).iter().all(|set| set.status >> 63 == 1));
        }
        assert!(sets(Maker::Intel, 100).iter().all(|set| set.vendor == 0 && set.ipid == 0));
        assert!(sets(Maker::Smca, 100).iter().all(|set| set.vendor == 2 && set.ipid != 0));
    }

    #[test]
    fn a_drivers_line_has_ten_words() {
        let set = &sets(Maker::Smca, 1)[0];
        let line = set.line();
        let words: Vec<u64> =
            line.split_whitespace().map(|word| u64::from_str_radix(word, 16).unwrap()).collect();
        assert_eq!(words.len(), 10);
        assert_eq!((words[5], words[9]), (set.status, set.ipid));
    }

    #[test]
    fn text_is_the_kernels() {
        let set = Registers {
            vendor: 2,
            cpuid: 0xa0_0f11,
            bank: 17,
            mcg_cap: 0x11c,
            mcg_status: 5,
            status: 0xdc20_4000_0000_011b,
            addr: 0x1234_5000,
            misc: 0,
            synd: 0xab,
            ipid: 0x96_0005_0f00,
        };
        let mut text = String::new();
        set.print(10, 7, &mut text);
        let expect = "\
[    7.000000] mce: [Hardware Error]: CPU 10: Machine Check Exception: 5 Bank 17: dc2040000000011b
[    7.000000] mce: [Hardware Error]: TSC 0 ADDR 12345000 SYND ab IPID 9600050f00 
[    7.000000] mce: [Hardware Error]: PROCESSOR 2:a00f11 TIME 1700000007 SOCKET 0 APIC a microcode d0003a5
";
        assert_eq!(text, expect);
    }
}
