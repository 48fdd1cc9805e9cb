//! Exceptions: a machine check may be survived, all others end the guest with a line that says why.
// UNSAFETY: descriptor tables and the frames that the processor pushes.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::vec;
use core::arch::global_asm;

use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, SS, Segment};
use x86_64::instructions::tables::{lidt, load_tss};
use x86_64::registers::control::{Cr2, Cr4, Cr4Flags};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::{Entry, HandlerFunc};
use x86_64::structures::tss::TaskStateSegment;

use crate::machine::{guarded, halt, machine_check};
use crate::say;

const VECTORS: usize = 32;

/// Offset of the last byte of the descriptor table: 16 bytes a vector.
const IDT_LIMIT: u16 = 32 * 16 - 1;
const _: () = assert!(size_of::<[Entry<HandlerFunc>; VECTORS]>() == IDT_LIMIT as usize + 1);

const DOUBLE_FAULT: u64 = 8;
const PAGE_FAULT: u64 = 14;
const MACHINE_CHECK: u64 = 18;
const MACHINE_CHECK_STACK: u16 = 0;
const DOUBLE_FAULT_STACK: u16 = 1;
const STACK_BYTES: usize = 16 << 10;

/// Bytes from one stub to the next.
const STUB_BYTES: u64 = 16;

// One stub per vector. 0x60227d00 has a bit set for every vector that pushes an error code (SDM
// vol. 3A, table 6-1; APM vol. 2 for 29 and 30); the others push a zero, so that all frames agree.
global_asm!(
    r#"
    .text
    .balign 16
trap_stubs:
    .set vector, 0
    .rept 32
    .balign 16
    .if ((0x60227d00 >> vector) & 1) == 0
    pushq $0
    .endif
    pushq $vector
    jmp trap_common
    .set vector, vector + 1
    .endr

trap_common:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call trap
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq
    "#,
    options(att_syntax)
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// What the stubs and the processor push.
#[repr(C)]
struct Frame {
    registers: [u64; 15],
    vector: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// Loads descriptor tables with a stack of their own for machine checks and double faults, and
/// lets machine checks in.
pub fn install() {
    let mut tss = TaskStateSegment::new();
    for index in [MACHINE_CHECK_STACK, DOUBLE_FAULT_STACK] {
        let memory = Box::leak(vec![0u8; STACK_BYTES].into_boxed_slice());
        let end = VirtAddr::from_ptr(memory.as_ptr()) + STACK_BYTES as u64;
        tss.interrupt_stack_table[usize::from(index)] = end;
    }
    let mut gdt = GlobalDescriptorTable::new();
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(Box::leak(Box::new(tss))));
    Box::leak(Box::new(gdt)).load();

    // SAFETY: the selectors are those of the table just loaded, which lives for ever.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        load_tss(task);
    }

    let mut idt = [const { Entry::<HandlerFunc>::missing() }; VECTORS];
    let mut stub = VirtAddr::from_ptr(&raw const trap_stubs);
    for (vector, entry) in (0..).zip(&mut idt) {
        // SAFETY: each stub ends in `iretq` and keeps all registers. The stack indices are those
        // filled above.
        unsafe {
            let options = entry.set_handler_addr(stub);
            match vector {
                MACHINE_CHECK => options.set_stack_index(MACHINE_CHECK_STACK),
                DOUBLE_FAULT => options.set_stack_index(DOUBLE_FAULT_STACK),
                _ => options,
            };
        }
        stub += STUB_BYTES;
    }
    let table = DescriptorTablePointer {
        limit: IDT_LIMIT,
        base: VirtAddr::from_ptr(Box::leak(Box::new(idt)).as_ptr()),
    };
    // SAFETY: the table lives for ever and its handlers are valid, see above.
    unsafe { lidt(&table) };

    if machine_check::present() {
        // SAFETY: vector 18 has its handler.
        unsafe { Cr4::update(|flags| flags.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
    }
}

// SAFETY: no other symbol has this name; only the stubs call it, with the frame they pushed.
#[unsafe(no_mangle)]
extern "C" fn trap(frame: &mut Frame) {
    if frame.vector == MACHINE_CHECK {
        match machine_check::handle(guarded::fixup(frame.rip)) {
            machine_check::Verdict::Continue => {}
            machine_check::Verdict::ContinueAt(rip) => frame.rip = rip,
            machine_check::Verdict::Fatal { addr } => end(frame, addr),
        }
    } else if frame.vector == PAGE_FAULT {
        end(frame, Cr2::read_raw());
    } else {
        end(frame, frame.error_code);
    }
}

fn end(frame: &Frame, addr: u64) -> ! {
    // Some other line may be half printed.
    say!("\npanic: vector={} rip={:#x} addr={addr:#x}", frame.vector, frame.rip);
    halt()
}
