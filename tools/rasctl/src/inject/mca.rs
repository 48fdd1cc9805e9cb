//! Machine-check banks as the kernel and mcelog write them.

use std::fmt::Write as _;

use mce_decoder::mca::status::CpuSignature;
use ras_core::{CpuVendor, McaRegisters};
use serde_json::{Map, Value, json};

use super::describe::{Common, Mce};

/// The kernel's `X86_VENDOR_*` numbers.
const fn vendor(vendor: CpuVendor) -> u8 {
    match vendor {
        CpuVendor::Intel => 0,
        CpuVendor::Amd => 2,
        CpuVendor::Hygon => 9,
        CpuVendor::Zhaoxin => 10,
        _ => 0xff,
    }
}

fn seconds(common: &Common) -> u64 {
    common.time.map_or(0, ras_core::Timestamp::secs)
}

/// The lines of Linux's `print_mce`, without times before them.
pub(super) fn kernel_log(mce: &Mce, common: &Common) -> String {
    let Mce { registers, cpu, socket } = mce;
    let McaRegisters { bank, status, mcg_status, .. } = registers;
    // MCG_STATUS: 1 is EIPV, 2 is MCIP.
    let exception = if mcg_status & 4 != 0 { " Exception" } else { "" };
    let mut lines = vec![format!(
        "CPU {cpu}: Machine Check{exception}: {mcg_status:x} Bank {bank}: {status:016x}"
    )];
    if registers.ip != 0 {
        let inexact = if mcg_status & 2 == 0 { " !INEXACT!" } else { "" };
        lines.push(format!("RIP{inexact} {:02x}:<{:016x}>", registers.cs, registers.ip));
    }
    let mut line = format!("TSC {:x} ", registers.tsc);
    for (name, value) in [
        ("ADDR", registers.addr),
        ("MISC", registers.misc),
        ("PPIN", registers.ppin),
        ("SYND", registers.synd),
        ("SYND1", registers.synd1),
        ("SYND2", registers.synd2),
        ("IPID", registers.ipid),
    ] {
        if value != 0 {
            let _ = write!(line, "{name} {value:x} ");
        }
    }
    lines.push(line.trim_end().to_owned());
    lines.push(format!(
        "PROCESSOR {}:{:x} TIME {} SOCKET {socket} APIC {:x} microcode {:x}",
        vendor(registers.vendor),
        registers.cpuid,
        seconds(common),
        registers.apic_id,
        registers.microcode,
    ));
    lines.iter().map(|line| format!("mce: [Hardware Error]: {line}\n")).collect()
}

/// What mcelog logs: the registers, without its own reading of them.
pub(super) fn mcelog(mce: &Mce, common: &Common) -> Vec<u8> {
    let Mce { registers, cpu, socket } = mce;
    let signature = CpuSignature::from_bits(registers.cpuid);
    let maker = match registers.vendor {
        CpuVendor::Amd => "AMD",
        CpuVendor::Hygon => "Hygon",
        CpuVendor::Zhaoxin => "Zhaoxin",
        _ => "Intel",
    };
    let mut text = format!(
        "Hardware event. This is not a software error.\nMCE 0\nCPU {cpu} BANK {} TSC {:x}\n",
        registers.bank, registers.tsc
    );
    if registers.ip != 0 {
        let inexact = if registers.mcg_status & 2 == 0 { " !INEXACT!" } else { "" };
        let _ = writeln!(text, "RIP{inexact} {:02x}:{:x}", registers.cs, registers.ip);
    }
    let _ = writeln!(text, "MISC {:x} ADDR {:x}", registers.misc, registers.addr);
    if registers.synd != 0 || registers.ipid != 0 {
        let _ = writeln!(text, "SYND {:x} IPID {:x}", registers.synd, registers.ipid);
    }
    if common.time.is_some() {
        let _ = writeln!(text, "TIME {}", seconds(common));
    }
    let _ = writeln!(text, "STATUS {:x} MCGSTATUS {:x}", registers.status, registers.mcg_status);
    let _ = writeln!(
        text,
        "MCGCAP {:x} APICID {:x} SOCKETID {socket:x}",
        registers.mcg_cap, registers.apic_id
    );
    if registers.ppin != 0 {
        let _ = writeln!(text, "PPIN {:x}", registers.ppin);
    }
    if registers.microcode != 0 {
        let _ = writeln!(text, "MICROCODE {:x}", registers.microcode);
    }
    let _ = writeln!(
        text,
        "CPUID Vendor {maker} Family {} Model {} Step {}",
        signature.family(),
        signature.model(),
        registers.cpuid & 0xf
    );
    text.into_bytes()
}

/// The `mce` object of a capture.
pub(super) fn capture(mce: &Mce) -> Value {
    let Mce { registers, cpu, socket } = mce;
    let mut object = Map::new();
    object.insert("vendor".into(), registers.vendor.name().into());
    for (name, value) in [
        ("cpuid", registers.cpuid.into()),
        ("status", registers.status),
        ("addr", registers.addr),
        ("misc", registers.misc),
        ("mcg_status", registers.mcg_status),
        ("mcg_cap", registers.mcg_cap),
        ("synd", registers.synd),
        ("ipid", registers.ipid),
        ("ip", registers.ip),
        ("tsc", registers.tsc),
        ("ppin", registers.ppin),
        ("apic_id", registers.apic_id.into()),
        ("microcode", registers.microcode.into()),
    ] {
        if value != 0 || name == "status" {
            object.insert(name.into(), format!("{value:#x}").into());
        }
    }
    for (name, value) in [("bank", registers.bank), ("cs", registers.cs)] {
        object.insert(name.into(), value.into());
    }
    object.insert("cpu".into(), json!(cpu));
    object.insert("socket".into(), json!(socket));
    Value::Object(object)
}

/// Linux's `struct mce` (`arch/x86/include/uapi/asm/mce.h`), as pstore and /dev/mcelog hold it.
pub(super) fn kernel_struct(mce: &Mce, common: &Common) -> Vec<u8> {
    let Mce { registers, cpu, socket } = mce;
    let mut bytes = Vec::with_capacity(128);
    for value in [
        registers.status,
        registers.misc,
        registers.addr,
        registers.mcg_status,
        registers.ip,
        registers.tsc,
        seconds(common),
    ] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([vendor(registers.vendor), 0, 0, 0]);
    bytes.extend(registers.cpuid.to_le_bytes());
    // The CPU's low bits are where older kernels had it.
    bytes.extend([registers.cs, registers.bank, cpu.to_le_bytes()[0], 0]);
    for value in [*cpu, *socket, registers.apic_id] {
        bytes.extend(value.to_le_bytes());
    }
    for value in [registers.mcg_cap, registers.synd, registers.ipid, registers.ppin] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend(registers.microcode.to_le_bytes());
    bytes.resize(128, 0);
    bytes
}
