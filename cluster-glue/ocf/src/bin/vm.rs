//! The resource agent `ocf:ras:vm`: installed as `/usr/lib/ocf/resource.d/ras/vm`.

use ras_ocf::{Code, agent};

fn main() -> Code {
    let action = std::env::args().nth(1);
    agent::run(action.as_deref(), |key| std::env::var(key).ok())
}
