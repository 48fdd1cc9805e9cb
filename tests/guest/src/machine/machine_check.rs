//! Machine checks: the bank registers, the handler's judgement, the poll for corrected errors.
//! SDM vol. 3B, chapter "Machine-Check Architecture".
// UNSAFETY: model-specific registers.
#![allow(unsafe_code)]

use core::arch::x86_64::__cpuid;
use core::sync::atomic::{AtomicU64, Ordering};

use guest::mca::{BankRecord, Log, McgCap, McgStatus, MciStatus, Vendor};
use guest::page::{Gpa, PAGE_SIZE};
use x86_64::registers::model_specific::Msr;

use crate::say;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
const MC0_CTL: u32 = 0x400;

/// Machine checks taken since start.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// First and last byte that the newest machine check with data required named; everything if it
/// named nothing.
static REQUIRED: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(u64::MAX)];

/// What the handler and the poll found; the main loop prints it.
pub static LOG: Log = Log::new();

/// How the interrupted program goes on.
pub enum Verdict {
    /// Where it was.
    Continue,
    /// At a fixup.
    ContinueAt(u64),
    /// Not at all.
    Fatal {
        /// The address that the last bank with an address named; 0 if none did.
        addr: u64,
    },
}

/// CPUID.1:EDX, MCE (bit 7) and MCA (bit 14).
pub fn present() -> bool {
    const MCE_AND_MCA: u32 = 1 << 7 | 1 << 14;
    __cpuid(1).edx & MCE_AND_MCA == MCE_AND_MCA
}

/// Enables all reporting. KVM quietly drops an injected machine check unless every enable bit is
/// set. Old records are cleared: nobody alive could have put them there.
pub fn init() {
    if !present() {
        return;
    }
    let cap = McgCap::from_bits(read(MCG_CAP));
    if cap.ctl_p() {
        write(MCG_CTL, u64::MAX);
    }
    for bank in 0..cap.count() {
        write(msr(bank, 0), u64::MAX);
        write(msr(bank, 1), 0);
    }
    write(MCG_STATUS, 0);
}

/// Machine checks taken since start.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Whether the newest machine check with data required was about `page`. One that had to wait may
/// interrupt the access to some other page, which is as good as before.
pub fn required(page: Gpa) -> bool {
    let [first, last] = [0, 1].map(|end: usize| REQUIRED[end].load(Ordering::Relaxed));
    (first..=last).contains(&page.0)
}

/// Handles a machine check; `fixup` says where to go on if it interrupted a guarded access.
pub fn handle(fixup: Option<u64>) -> Verdict {
    COUNT.fetch_add(1, Ordering::Relaxed);
    let mcg = McgStatus::from_bits(read(MCG_STATUS));
    let mut corrupt = false;
    let mut action_required = false;
    let mut addr = 0;
    for bank in banks() {
        let Some(record) = record(bank, mcg, false) else {
            continue;
        };
        LOG.push(&record);
        corrupt |= record.status.pcc();
        if record.is_action_required() {
            action_required = true;
            let named = record.memory();
            let [first, last] = named.map_or([0, u64::MAX], |memory| {
                [memory.page.0, memory.page.0 + memory.pages * PAGE_SIZE - 1]
            });
            REQUIRED[0].store(first, Ordering::Relaxed);
            REQUIRED[1].store(last, Ordering::Relaxed);
        }
        if record.status.addrv() {
            addr = record.addr;
        }
        write(msr(bank, 1), 0);
    }
    let verdict = match fixup {
        _ if corrupt => Verdict::Fatal { addr },
        // A guarded access goes on at its fixup whenever its data was asked for, or it cannot be
        // restarted.
        Some(fixup) if action_required || !mcg.ripv() => Verdict::ContinueAt(fixup),
        None if action_required || !mcg.ripv() => Verdict::Fatal { addr },
        _ => Verdict::Continue,
    };
    if let Verdict::Fatal { .. } = verdict {
        // Some other line may be half printed.
        say!("");
        while let Some(record) = LOG.pop() {
            print(&record);
        }
    }
    // Only now may the next one come: the banks are free again.
    write(MCG_STATUS, 0);
    verdict
}

/// Takes the corrected and deferred errors and UCNA out of the banks, which come without a machine check.
pub fn poll() {
    for bank in banks() {
        if let Some(record) = record(bank, McgStatus::new(), true)
            && record.is_for_poll()
        {
            LOG.push(&record);
            write(msr(bank, 1), 0);
        }
    }
}

/// Prints one record.
pub fn print(record: &BankRecord) {
    let what = if record.polled { "CMC" } else { "#MC" };
    say!(
        "{what} bank={} status={:#x} addr={:#x} misc={:#x} mcg={:#x}",
        record.bank,
        record.status.into_bits(),
        record.addr,
        record.misc,
        record.mcg.into_bits()
    );
}

fn banks() -> core::ops::Range<u8> {
    if present() { 0..McgCap::from_bits(read(MCG_CAP)).count() } else { 0..0 }
}

fn record(bank: u8, mcg: McgStatus, polled: bool) -> Option<BankRecord> {
    let status = MciStatus::from_bits(read(msr(bank, 1)));
    status.val().then(|| BankRecord {
        vendor: vendor(),
        bank,
        polled,
        status,
        addr: if status.addrv() { read(msr(bank, 2)) } else { 0 },
        misc: if status.miscv() { read(msr(bank, 3)) } else { 0 },
        mcg,
    })
}

/// CPUID.0: the first letters of "AuthenticAMD" and "HygonGenuine".
fn vendor() -> Vendor {
    match &__cpuid(0).ebx.to_le_bytes() {
        b"Auth" | b"Hygo" => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

/// `IA32_MCi_CTL`, `_STATUS`, `_ADDR` or `_MISC` (0 to 3) of a bank.
fn msr(bank: u8, which: u32) -> u32 {
    MC0_CTL + 4 * u32::from(bank) + which
}

fn read(msr: u32) -> u64 {
    // SAFETY: machine-check registers that CPUID and MCG_CAP say exist; reading has no effect.
    unsafe { Msr::new(msr).read() }
}

fn write(msr: u32, value: u64) {
    // SAFETY: machine-check registers that CPUID and MCG_CAP say exist. They don't affect memory,
    // and only zero is written to a status, as all processors allow.
    unsafe { Msr::new(msr).write(value) }
}
