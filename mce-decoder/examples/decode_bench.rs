//! How fast register sets are explained, and nothing else: no text, no storing. Speaks the protocol of
//! `cargo xtask bench decode --help`. Usage: `decode_bench FILE PASSES`; prints `EVENTS SECONDS`.

use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use mce_decoder::{mca, trace};
use ras_core::McaRegisters;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: decode_bench FILE PASSES";
    let file = arguments.next().ok_or(usage)?;
    let passes: u64 = arguments.next().ok_or(usage)?.to_string_lossy().parse()?;
    let text = fs::read_to_string(file)?;
    let sets = text.lines().map(registers).collect::<Result<Vec<_>, _>>()?;

    let begin = Instant::now();
    for _ in 0..passes {
        for registers in &sets {
            black_box(mca::explain(black_box(registers)));
        }
    }
    let elapsed = begin.elapsed();
    println!("{} {:.9}", sets.len() as u64 * passes, elapsed.as_secs_f64());
    Ok(())
}

/// `vendor cpuid bank mcg_cap mcg_status status addr misc synd ipid`, hexadecimal.
fn registers(line: &str) -> Result<McaRegisters, Box<dyn Error>> {
    let words = line
        .split_whitespace()
        .map(|word| u64::from_str_radix(word, 16))
        .collect::<Result<Vec<_>, _>>()?;
    let &[vendor, cpuid, bank, mcg_cap, mcg_status, status, addr, misc, synd, ipid] =
        words.as_slice()
    else {
        return Err(format!("not ten words: {line:?}").into());
    };
    Ok(McaRegisters {
        vendor: trace::mce_record::vendor(u8::try_from(vendor)?),
        cpuid: u32::try_from(cpuid)?,
        bank: u8::try_from(bank)?,
        mcg_cap,
        mcg_status,
        status,
        addr,
        misc,
        synd,
        ipid,
        ..McaRegisters::default()
    })
}
