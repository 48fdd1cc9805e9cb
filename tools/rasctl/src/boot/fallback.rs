//! Without UEFI, or where its driver is not wanted: GRUB or Linux itself leaves pages out.
//!
//! `memmap=` gets four ranges unless more are asked for. The kernel's decompressor looks for a random
//! place for the kernel, and knows of four regions to keep away from; with more it gives the random place
//! up, and the kernel's fixed place may be a bad page. Four ranges of the worst pages cost nothing, and
//! rasd offlines the others as soon as it starts.

use std::path::Path;
use std::process::Command;

use persist_store::exclusion::Limits;
use ras_core::{PAGE_SIZE, RetiredPage};
use rasctl::exchange::export::{Exported, Form, Quote, export_for};

use super::host::Host;
use crate::Failure;

/// Read by Debian's `grub-mkconfig` after `/etc/default/grub`.
pub(super) const DROP_IN: &str = "/etc/default/grub.d/rampart.cfg";

/// Run by every `grub-mkconfig`; its output comes behind the header, and before the kernels.
pub(super) const SCRIPT: &str = "/etc/grub.d/01_rampart";

/// Longest kernel command line, without its end: x86's `COMMAND_LINE_SIZE`.
const KERNEL_LINE_MAX: usize = 2047;

/// Regions that go with a random place of the kernel (`MAX_MEMMAP_REGIONS`).
const KASLR_REGIONS: u32 = 4;

const HEAD: &str = "\
# Written by `rasctl boot install`. `rasctl boot refresh` writes it anew, `rasctl boot remove` takes it away.
";

/// A file that makes pages unusable, and what is to be known about it.
pub(super) struct Fallback {
    pub(super) text: String,
    /// What goes into the file: it changes with the list alone, and not with the machine's command line.
    comments: Vec<String>,
    pub(super) notes: Vec<String>,
    /// Listed pages that are not in it.
    pub(super) left_over: u64,
    /// What has to be in GRUB's own configuration once it is made from this.
    needles: Vec<String>,
    /// What the kernel was told at its start if it was started with this; empty if it is not told.
    parameter: String,
}

impl Fallback {
    /// Linux' own `memmap=`.
    pub(super) fn memmap(host: &Host, pages: &[RetiredPage], ranges: Option<u32>) -> Self {
        let line = host.kernel_line();
        let before = host.read_small(DROP_IN).ok().and_then(|text| parameter_of(&text));
        let others: Vec<&str> =
            line.split(' ').filter(|word| Some(*word) != before.as_deref()).collect();
        let room = KERNEL_LINE_MAX.saturating_sub(others.join(" ").len() + 1);
        let fixed_place = others.contains(&"nokaslr");
        let usual = if fixed_place { Limits::RANGES_DEFAULT } else { KASLR_REGIONS };
        let mut ranges = ranges.unwrap_or(usual);
        let memory = host.memory(pages);
        let plain = loop {
            let plain = export_for(&memory, pages, Form::Memmap, Quote::Plain, Some(ranges));
            if plain.text.trim_end().len() <= room || ranges == 1 {
                break plain;
            }
            ranges -= 1;
        };
        if plain.text.trim_end().len() > room {
            let mut none = Self::of(String::new(), &Exported::default(), pages);
            none.left_over = pages.len() as u64;
            none.comments.clear();
            none.notes.clear();
            none.notes.push(format!(
                "the kernel's command line has no room left: {} of {KERNEL_LINE_MAX} bytes",
                others.join(" ").len()
            ));
            return none;
        }
        let parameter = plain.text.trim_end().to_owned();
        let quoted = export_for(&memory, pages, Form::Memmap, Quote::DefaultGrub, Some(ranges));
        let mut fallback = Self::of(quoted.text, &plain, pages);
        if !parameter.is_empty() {
            let regions = parameter.split(',').count();
            let (length, all) = (parameter.len(), others.join(" ").len() + 1 + parameter.len());
            fallback.notes.push(format!(
                "{regions} ranges, {length} bytes; the kernel's command line is then {all} bytes long, of \
                 {KERNEL_LINE_MAX}"
            ));
            fallback.notes.push(match (fixed_place, regions > KASLR_REGIONS as usize) {
                (true, _) => "nokaslr is set: the kernel has a fixed place, which may hold a bad page".into(),
                (false, true) => format!(
                    "with more than {KASLR_REGIONS} ranges the kernel gives up its random place in memory, and \
                     its fixed one may hold a bad page"
                ),
                (false, false) => format!(
                    "at most {KASLR_REGIONS} ranges go with the kernel's random place in memory (--ranges \
                     COUNT for more, without it)"
                ),
            });
            fallback.needles = vec![parameter.replace('$', "\\$")];
        }
        fallback.parameter = parameter;
        fallback
    }

    /// GRUB's `cutmem`.
    pub(super) fn cutmem(host: &Host, pages: &[RetiredPage], ranges: Option<u32>) -> Self {
        // GRUB for BIOS machines reads numbers of 32 bits.
        let reaches = |page: &&RetiredPage| {
            host.has_uefi() || page.pfn.0.saturating_add(1).saturating_mul(PAGE_SIZE) < 1 << 32
        };
        let reached: Vec<RetiredPage> = pages.iter().filter(reaches).cloned().collect();
        let exported =
            export_for(&host.memory(pages), &reached, Form::GrubCutmem, Quote::Plain, ranges);
        let commands = exported.text.lines().filter(|line| !line.starts_with('#'));
        let needles: Vec<String> = commands.map(str::to_owned).collect();
        let text = format!("insmod mmap\n{}\n", needles.join("\n"));
        let text = if needles.is_empty() { String::new() } else { text };
        let mut fallback = Self::of(text, &exported, pages);
        let high = pages.len() - reached.len();
        if high > 0 {
            fallback.left_over += high as u64;
            fallback
                .notes
                .push(format!("{high} pages are above 4 GiB, where GRUB for BIOS can't reach"));
        }
        fallback.notes.push("GRUB refuses cutmem under lockdown (Secure Boot)".into());
        fallback.needles = needles;
        fallback.text = script(&fallback.text, &fallback.comments);
        fallback
    }

    fn of(text: String, exported: &Exported, pages: &[RetiredPage]) -> Self {
        let left_over = exported.left_over.iter().map(|range| range.count).sum::<u64>();
        let all = pages.iter().filter(|page| !page.state.is_suspended()).count() as u64;
        let mut comments = vec![format!("{} of {all} bad pages", all - left_over.min(all))];
        if exported.filler_pages > 0 {
            let filler = exported.filler_pages;
            comments.push(format!("{filler} sound pages between them are given away as well"));
        }
        Self {
            text,
            notes: comments.clone(),
            comments,
            left_over,
            needles: Vec::new(),
            parameter: String::new(),
        }
    }

    /// The drop-in's whole text.
    pub(super) fn drop_in(&self) -> String {
        format!("{HEAD}{}{}", comments(&self.comments), self.text)
    }

    /// Whether GRUB's configuration was made from this; `None` where nobody can tell.
    pub(super) fn is_in_grub(&self, host: &Host) -> Option<bool> {
        let files = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"];
        let text = files.iter().find_map(|file| host.read_small(file).ok())?;
        Some(self.needles.iter().all(|needle| text.contains(needle)))
    }

    /// Whether the running kernel was started with this; `None` where it does not know.
    pub(super) fn is_in_kernel(&self, host: &Host) -> Option<bool> {
        let line = host.kernel_line();
        (!self.parameter.is_empty()).then(|| line.split(' ').any(|word| word == self.parameter))
    }

    /// The kernel's parameter, as the kernel has to see it.
    pub(super) fn parameter(&self) -> &str {
        &self.parameter
    }
}

fn comments(notes: &[String]) -> String {
    notes.iter().map(|note| format!("# {note}\n")).collect()
}

fn script(commands: &str, notes: &[String]) -> String {
    format!("#!/bin/sh\n{HEAD}{}cat << 'END'\n{commands}END\n", comments(notes))
}

/// The parameter in a drop-in, without what keeps `$` from a shell and from GRUB.
fn parameter_of(drop_in: &str) -> Option<String> {
    let line = drop_in.lines().find(|line| line.starts_with("GRUB_CMDLINE_LINUX="))?;
    let (_, parameter) = line.trim_end().trim_end_matches('"').rsplit_once(' ')?;
    parameter.starts_with("memmap=").then(|| parameter.replace('\\', ""))
}

/// Whether GRUB is there, and reads the file.
pub(super) fn check_grub(host: &Host, file: &str, parameter: &str) -> Result<(), Failure> {
    let by_hand = || match parameter {
        "" => String::new(),
        parameter => {
            format!("; or put this on the kernel's command line by other means: {parameter}")
        }
    };
    let programs = ["/usr/sbin/grub-mkconfig", "/usr/sbin/grub2-mkconfig"];
    let Some(text) = programs.iter().find_map(|program| host.read_small(program).ok()) else {
        return Err(Failure::NotDone(format!(
            "there is no GRUB here (grub-mkconfig){}",
            by_hand()
        )));
    };
    if file == DROP_IN && !text.contains("default/grub.d") {
        return Err(Failure::NotDone(format!(
            "this GRUB does not read /etc/default/grub.d: use --method grub{}",
            by_hand()
        )));
    }
    Ok(())
}

/// Has GRUB's configuration made anew.
pub(super) fn update_grub(host: &Host) -> Result<(), Failure> {
    let commands: [(&str, &[&str]); 2] = [
        ("/usr/sbin/update-grub", &[]),
        ("/usr/sbin/grub2-mkconfig", &["-o", "/boot/grub2/grub.cfg"]),
    ];
    let found = commands.into_iter().find(|(program, _)| host.at(Path::new(program)).is_file());
    let Some((program, arguments)) = found else {
        return Err(Failure::NotDone("neither update-grub nor grub2-mkconfig is here".into()));
    };
    // What it says of kernels it found is for whoever reads our errors.
    let output = Command::new(host.at(program)).args(arguments).output();
    let output = output.map_err(|error| Failure::NotDone(format!("running {program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::NotDone(format!("{program} failed ({}): {}", output.status, said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_found_behind_its_quotes() {
        let text = "# x\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX memmap=4K\\\\\\$0x1000,8K\\\\\\$0x9000\"\n";
        assert_eq!(parameter_of(text).as_deref(), Some("memmap=4K$0x1000,8K$0x9000"));
        assert_eq!(parameter_of("# nothing is bad\n"), None);
    }
}
