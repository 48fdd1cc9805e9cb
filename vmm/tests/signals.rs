//! SIGBUS as the kernel sends it, and what becomes of it: with the signals of a real memory error,
//! which a process may send to itself.

// UNSAFETY: queues signals with the codes only the kernel and the process itself may use.
#![allow(unsafe_code)]

mod common;

use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{machine, no_kvm, wait};
use ras_core::{CpuVendor, Gpa};
use ras_qmp::RunState;
use rasvmm::poison::signal::EXIT_OWN_MEMORY;
use rasvmm::vm::{Ending, Vm};

/// `jmp .`: never leaves the guest by itself.
const SPIN: &[u8] = &[0xeb, 0xfe];

/// The process has one SIGBUS handler, so it has one machine at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `siginfo_t` of a memory error. Linux, include/uapi/asm-generic/siginfo.h.
#[repr(C, align(8))]
struct MemoryError {
    signo: i32,
    errno: i32,
    code: i32,
    padding: i32,
    address: usize,
    lsb: i16,
    rest: [u8; 102],
}
const _: () = assert!(size_of::<MemoryError>() == 128);

/// Sends this thread what the kernel sends for bad memory. It may only do so to itself; the handler
/// does not depend on which thread gets early notice.
fn memory_error(code: i32, address: usize) {
    let info = MemoryError {
        signo: libc::SIGBUS,
        errno: 0,
        code,
        padding: 0,
        address,
        lsb: 12,
        rest: [0; 102],
    };
    // SAFETY: the structure has the layout and size of a siginfo_t and outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            libc::getpid(),
            libc::gettid(),
            libc::SIGBUS,
            &raw const info,
        )
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Runs `story` beside the machine's own threads; answers how the machine ended.
fn beside(vm: &Arc<Vm>, story: impl FnOnce()) -> Ending {
    rasvmm::vm::ending_signals().thread_block().expect("blocking signals");
    let serving = Arc::clone(vm);
    let thread = std::thread::spawn(move || serving.serve().expect("served"));
    story();
    vm.machine().lifecycle().end(Ending::Clean);
    thread.join().expect("no panic")
}

#[test]
fn early_notice_is_remembered_and_passed_on() {
    let _alone = alone();
    if let Some(why) = no_kvm() {
        eprintln!("skipped: {why}");
        return;
    }
    let vm = machine(SPIN);
    let machine = vm.machine();
    vm.power_on().expect("mapped");
    let bad = Gpa(0x20_5000);
    let hva = machine.ram().hva_of(bad, 1).expect("RAM");
    let ending = beside(&vm, || {
        for _ in 0..100 {
            memory_error(libc::BUS_MCEERR_AO, hva + 0x123);
        }
        wait("the page's retirement", || machine.poison().list().get(bad).is_some());
        let page = *machine.poison().list().get(bad).expect("known");
        assert!(page.lost && page.told && !page.held && !page.touched, "{page:?}");
        assert_eq!(machine.poison().list().iter().count(), 1, "one page, however often");
        if matches!(vm.vcpu().vendor(), CpuVendor::Amd | CpuVendor::Hygon) {
            // A deferred error: it is in the bank for the guest to find.
            wait("the record", || vm.vcpu().with(|vcpu| vcpu.is_handling()) == Some(true));
        } else {
            // The guest has not enabled machine checks: it waits.
            assert_eq!(machine.poison().waiting(), 1);
        }
        assert_eq!(vm.state(), RunState::Running);
    });
    assert_eq!(ending, Ending::Clean);
}

#[test]
fn bad_memory_of_our_own_is_survived_until_touched() {
    let _alone = alone();
    if let Some(why) = no_kvm() {
        eprintln!("skipped: {why}");
        return;
    }
    let vm = machine(SPIN);
    vm.power_on().expect("mapped");
    let own = Box::new(0u8);
    beside(&vm, || {
        memory_error(libc::BUS_MCEERR_AO, &raw const *own as usize);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(vm.state(), RunState::Running);
        assert_eq!(vm.machine().poison().list().iter().count(), 0);
    });
}

#[test]
fn a_guest_that_cannot_take_a_machine_check_panics_and_the_process_lives() {
    let _alone = alone();
    if let Some(why) = no_kvm() {
        eprintln!("skipped: {why}");
        return;
    }
    // mov al, [0x205000]; jmp .-7: with CR4.MCE clear, as every processor starts.
    let vm = machine(&[0xa0, 0x00, 0x50, 0x20, 0x00, 0xeb, 0xf9]);
    let machine = vm.machine();
    if let Err(why) = machine.ram().poison(Gpa(0x20_5000)) {
        eprintln!("skipped: {why}");
        return;
    }
    vm.power_on().expect("mapped");
    let ending = beside(&vm, || {
        wait("the guest's end", || vm.state() == RunState::GuestPanicked);
        let page = *machine.poison().list().get(Gpa(0x20_5000)).expect("known");
        assert!(page.lost && page.touched);
        assert!(vm.cont().is_err(), "a panicked guest does not run on");
        assert!(vm.stop().is_ok());
    });
    assert_eq!(ending, Ending::Clean);
}

#[test]
fn code_in_a_lost_page_is_lost_memory_and_no_riddle() {
    let _alone = alone();
    if let Some(why) = no_kvm() {
        eprintln!("skipped: {why}");
        return;
    }
    let vm = machine(SPIN);
    let machine = vm.machine();
    let code = Gpa(0x10_0000);
    vm.power_on().expect("mapped");
    wait("the guest's start", || vm.state() == RunState::Running);
    if let Err(why) = machine.ram().poison(code) {
        eprintln!("skipped: {why}");
        return;
    }
    beside(&vm, || {
        wait("the guest's end", || vm.state() == RunState::GuestPanicked);
        assert!(machine.poison().list().get(code).is_some_and(|page| page.lost && page.touched));
    });
}

#[test]
fn a_triple_fault_ends_the_process_with_its_own_code() {
    let _alone = alone();
    if let Some(why) = no_kvm() {
        eprintln!("skipped: {why}");
        return;
    }
    // ud2, without an IDT.
    let vm = machine(&[0x0f, 0x0b]);
    vm.power_on().expect("mapped");
    let ending = beside(&vm, || {
        wait("the guest's end", || vm.state() == RunState::Shutdown);
    });
    assert_eq!(ending, Ending::GuestDied);
}

#[test]
fn touching_bad_memory_of_our_own_ends_with_a_word() {
    const CHILD: &str = "RASVMM_TEST_TOUCHES_OWN_MEMORY";
    let _alone = alone();
    if let Some(why) = no_kvm() {
        eprintln!("skipped: {why}");
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        let vm = machine(SPIN);
        let own = Box::new(0u8);
        beside(&vm, || {
            memory_error(libc::BUS_MCEERR_AR, &raw const *own as usize);
        });
        unreachable!("the handler does not return");
    }
    let child = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "touching_bad_memory_of_our_own_ends_with_a_word", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("a child");
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(EXIT_OWN_MEMORY), "{said}");
    assert!(said.contains("bad memory of rasvmm itself was touched"), "{said}");
}
