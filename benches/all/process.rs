//! What the kernel counts for a process.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Seconds of the processor, and memory faults of children: any child that has ended had some.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub own: f64,
    pub children: f64,
    pub faults_of_children: u64,
}

impl Usage {
    /// Children count once they have ended.
    pub fn of(process: i32) -> Self {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |at: usize| fields[at].parse::<u64>().unwrap();
        let second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64;
        Self {
            own: (number(11) + number(12)) as f64 / second,
            children: (number(13) + number(14)) as f64 / second,
            faults_of_children: number(8),
        }
    }
}
