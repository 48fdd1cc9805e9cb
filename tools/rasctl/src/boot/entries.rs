//! The firmware's own list of drivers, and our place in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use persist_store::efivarfs::{Efivarfs, KEPT, Variable};
use persist_store::exclusion::place;
use rasctl::efi::load_option::{
    GLOBAL, LoadOption, SIZE_MAX, decode_order, driver_number, driver_variable, encode_order,
};

use super::change::Change;
use crate::Failure;

/// Most bytes of a `DriverOrder`: every number twice.
const ORDER_MAX: usize = 4 << 16;

/// `Driver####` and `DriverOrder`.
#[derive(Default)]
pub(super) struct Entries {
    order: Option<Order>,
    /// Numbers that variables have, ours and others'.
    used: BTreeSet<u16>,
    /// Those that load our file.
    pub(super) ours: BTreeMap<u16, (Variable, LoadOption)>,
}

struct Order {
    attributes: u32,
    numbers: Vec<u16>,
}

/// Our file as a load option has it.
pub(super) fn file_path() -> String {
    format!("/{}/{}", place::DIRECTORY, place::DRIVER_FILE).replace('/', "\\")
}

fn order_variable() -> String {
    format!("DriverOrder-{GLOBAL}")
}

impl Entries {
    pub(super) fn read(variables: &Efivarfs) -> Result<Self, Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Failure::NotReached(format!("reading the variable {what}: {error}"))
        };
        let mut entries = Self::default();
        let order = variables.read(&order_variable(), ORDER_MAX);
        if let Some(order) = order.map_err(|error| failed("DriverOrder", &error))? {
            let numbers = decode_order(&order.data).ok_or_else(|| {
                Failure::NotDone(
                    "the firmware's variable DriverOrder is damaged (an odd length); it was left as it is"
                        .into(),
                )
            })?;
            entries.order = Some(Order { attributes: order.attributes, numbers });
        }
        let dir = variables.root();
        let names =
            fs::read_dir(dir).map_err(|error| failed(&dir.display().to_string(), &error))?;
        for name in names {
            let name =
                name.map_err(|error| failed(&dir.display().to_string(), &error))?.file_name();
            let Some((name, number)) =
                name.to_str().and_then(|name| Some((name, driver_number(name)?)))
            else {
                continue;
            };
            entries.used.insert(number);
            // What is too long or can't be read is none of ours.
            if let Ok(Some(variable)) = variables.read(name, SIZE_MAX)
                && let Some(option) = LoadOption::decode(&variable.data)
                && option.is_of_file(&file_path())
            {
                entries.ours.insert(number, (variable, option));
            }
        }
        Ok(entries)
    }

    /// Whether firmware comes to this number.
    pub(super) fn is_in_order(&self, number: u16) -> bool {
        self.order.as_ref().is_some_and(|order| order.numbers.contains(&number))
    }

    /// What makes `wanted` our one entry; `None` is to have none. An entry comes before it is in
    /// the order, and leaves the order before it goes.
    pub(super) fn changes(&self, wanted: Option<&LoadOption>) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        let number = match wanted {
            None => None,
            Some(option) => {
                let data = option.encode().ok_or_else(|| {
                    Failure::NotDone("the partition can't be described to the firmware".into())
                })?;
                let kept = self.ours.iter().next();
                let number = kept.map(|(number, _)| *number).or_else(|| self.first_free());
                let number = number.ok_or_else(|| {
                    Failure::NotDone("all 65,536 of the firmware's Driver#### are in use".into())
                })?;
                let known = kept.map(|(_, (variable, _))| variable);
                if known.is_none_or(|known| known.data != data) {
                    changes.push(Change::Variable {
                        name: driver_variable(number),
                        attributes: known.map_or(KEPT, |known| known.attributes),
                        data,
                        what: format!("Driver{number:04X}: load {}", file_path()),
                    });
                }
                Some(number)
            }
        };
        let stale: Vec<u16> =
            self.ours.keys().copied().filter(|ours| Some(*ours) != number).collect();
        let before: &[u16] = self.order.as_ref().map_or(&[], |order| &order.numbers);
        let mut order: Vec<u16> =
            before.iter().copied().filter(|number| !stale.contains(number)).collect();
        order.extend(number.filter(|number| !order.contains(number)));
        if order.is_empty() && self.order.is_some() {
            changes.push(Change::RemoveVariable { name: order_variable() });
        } else if order != before {
            let shown: Vec<String> = order.iter().map(|number| format!("{number:04X}")).collect();
            changes.push(Change::Variable {
                name: order_variable(),
                attributes: self.order.as_ref().map_or(KEPT, |order| order.attributes),
                data: encode_order(&order),
                what: format!("DriverOrder: {}", shown.join(" ")),
            });
        }
        changes.extend(
            stale
                .into_iter()
                .map(|number| Change::RemoveVariable { name: driver_variable(number) }),
        );
        Ok(changes)
    }

    /// A number that neither a variable has nor the order: somebody may have plans with it.
    fn first_free(&self) -> Option<u16> {
        (0..=u16::MAX).find(|number| !self.used.contains(number) && !self.is_in_order(*number))
    }
}
