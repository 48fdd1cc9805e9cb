//! A real Corosync and Pacemaker cluster on one machine, and the story that is told with it.
//!
//! ```text
//!            lab process (dies: everything dies)
//!   switches  |  n1                n2                n3          controller
//!   netns     |  own mount, uts, ipc, pid and net namespaces     answers fence_lab
//!   br0 ------+--- eth0 -----------  eth0 -----------  eth0      Corosync link 0, migration
//!   br1 ------+--- eth1 -----------  eth1 -----------  eth1      Corosync link 1
//!   br2 ------+--- eth2 -----------  eth2 -----------  eth2      management
//!             |  corosync, pacemakerd, ras-landing, rasd; vm1 = ocf:ras:vm -> rasvmm on /dev/kvm
//! ```
//!
//! A node is the Debian root file system of [`rootfs`] below an overlay in memory: it starts each
//! time as it was born, and leaves nothing behind. Fencing is real: Pacemaker calls an agent, which
//! asks the controller over the management network, which kills the node's init.
//!
//! [`run`] tells the story; its figures go to `cargo xtask bench`.

mod lab;
mod tale;

mod config;
mod console;
mod controller;
mod network;
mod process;
mod rootfs;

pub use lab::Lab;
pub use tale::{Figures, requirements, run, run_measured};
