//! Hosts of their own on this machine: network namespaces with one bridge between them, whose links can be cut.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Namespaces with one bridge between them; gone when dropped.
pub struct Network {
    prefix: String,
    hosts: usize,
}

impl Network {
    pub fn new(hosts: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("sd{:x}{:x}", std::process::id() % 0xfffff, NEXT.fetch_add(1, Ordering::SeqCst));
        let network = Self { prefix, hosts };
        let switch = network.namespace(0);
        run(&format!("ip netns add {switch}"));
        run(&format!("ip -n {switch} link add br0 type bridge"));
        run(&format!("ip -n {switch} link set br0 up"));
        for host in 1..=hosts {
            let name = network.namespace(host);
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link add eth0 type veth peer name port{host} netns {switch}"));
            run(&format!("ip -n {switch} link set port{host} master br0 up"));
            run(&format!("ip -n {name} addr add 10.77.0.{host}/24 dev eth0"));
            run(&format!("ip -n {name} link set eth0 up"));
            run(&format!("ip -n {name} link set lo up"));
        }
        network
    }

    /// The addresses of the hosts, in order.
    pub fn addresses(&self) -> Vec<String> {
        (1..=self.hosts).map(|host| format!("10.77.0.{host}")).collect()
    }

    /// What a command line begins with to run on a host.
    pub fn prefix(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace(host)].map(String::from).to_vec()
    }

    pub fn namespace(&self, host: usize) -> String {
        format!("{}n{host}", self.prefix)
    }

    /// Drops everything between a host and the others, in silence.
    pub fn cut(&self, host: usize) {
        self.drop_packets(host, &["input", "output"]);
    }

    /// Drops what comes to a host (`input`) or what leaves it (`output`): the other way stays open.
    pub fn cut_one_way(&self, host: usize, hook: &str) {
        self.drop_packets(host, &[hook]);
    }

    /// Drops everything between a host and these others, in silence.
    pub fn cut_between(&self, host: usize, others: &[usize]) {
        let name = self.namespace(host);
        for (hook, side) in [("input", "saddr"), ("output", "daddr")] {
            self.add_chain(host, hook);
            for other in others {
                run(&format!(
                    "ip netns exec {name} nft add rule inet cut {hook} ip {side} 10.77.0.{other} drop"
                ));
            }
        }
    }

    fn drop_packets(&self, host: usize, hooks: &[&str]) {
        let name = self.namespace(host);
        for hook in hooks {
            self.add_chain(host, hook);
            let side = if *hook == "input" { "iifname" } else { "oifname" };
            run(&format!("ip netns exec {name} nft add rule inet cut {hook} {side} eth0 drop"));
        }
    }

    fn add_chain(&self, host: usize, hook: &str) {
        let name = self.namespace(host);
        run(&format!("ip netns exec {name} nft add table inet cut"));
        run(&format!(
            "ip netns exec {name} nft add chain inet cut {hook} {{ type filter hook {hook} priority 0 ; policy accept ; }}"
        ));
    }

    pub fn heal(&self, host: usize) {
        run(&format!("ip netns exec {} nft delete table inet cut", self.namespace(host)));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..=self.hosts {
            // A namespace that was never made can't be removed; there is nothing to do about it.
            let _removed = Command::new("ip").args(["netns", "del", &self.namespace(host)]).output();
        }
    }
}
