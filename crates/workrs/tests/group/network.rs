//! A network of machines on this one: a bridge with addresses for the servers, and a network namespace for each node,
//! which can be cut off from whatever has an address of its own. It goes with its owner, and what a killed test left
//! goes with the next.

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

/// Where mounted network namespaces are found by name.
const NAMESPACES: &str = "/run/netns";
/// Nets of 256 addresses in 198.18.0.0/15, which is reserved for such purposes (RFC 2544).
const NETS: u32 = 512;
/// Names begin so, and go on with the number of the test's process.
const MARK: &str = "wrk";
/// A server has an address below this one, a node one from here on.
const FIRST_NODE: u8 = 101;

/// The network of one group.
pub struct Network {
    name: String,
    net: [u8; 3],
    machines: u8,
}

/// A machine of a node.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its network namespace.
    pub namespace: String,
    pub address: Ipv4Addr,
}

/// What is missing to make a network here, if anything is.
pub fn missing() -> Option<String> {
    remove_abandoned();
    let name = format!("{MARK}{}x", std::process::id());
    let tries: [&[&str]; 3] = [
        &["ip", "netns", "add", &name],
        &["ip", "netns", "exec", &name, "iptables", "-S"],
        &["ip", "netns", "del", &name],
    ];
    tries.iter().find_map(|arguments| run(arguments).err())
}

impl Network {
    /// A network in which the addresses below `servers` are this machine's.
    pub fn new(servers: u8) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Two that choose a net at the same time would choose the same one.
        static CHOICE: Mutex<()> = Mutex::new(());
        let _chosen_alone = CHOICE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let network = Self {
            name: format!("{MARK}{}b{number}", std::process::id()),
            net: free_net(std::process::id()),
            machines: 0,
        };
        let bridge = &*network.name;
        must(&["ip", "link", "add", bridge, "type", "bridge"]);
        for server in 1..servers {
            must(&["ip", "addr", "add", &format!("{}/24", network.server(server)), "dev", bridge]);
        }
        must(&["ip", "link", "set", bridge, "up"]);
        network
    }

    /// An address of this machine. The tests' own requests come from number 1.
    pub fn server(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.net;
        Ipv4Addr::new(a, b, c, number)
    }

    /// One more machine, which reaches all others and all servers.
    pub fn machine(&mut self) -> Machine {
        let number = self.machines;
        self.machines += 1;
        let [a, b, c] = self.net;
        let (base, network) = self.name.rsplit_once('b').unwrap();
        let namespace = format!("{base}n{network}-{number}");
        let cable = format!("{base}v{network}-{number}");
        let machine = Machine { namespace, address: Ipv4Addr::new(a, b, c, FIRST_NODE + number) };
        let Machine { namespace, address } = &machine;
        must(&["ip", "netns", "add", namespace]);
        must(&["ip", "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", namespace]);
        must(&["ip", "link", "set", &cable, "master", &self.name, "up"]);
        must(&["ip", "-n", namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        must(&["ip", "-n", namespace, "link", "set", "lo", "up"]);
        must(&["ip", "-n", namespace, "link", "set", "eth0", "up"]);
        machine
    }
}

impl Machine {
    /// From now on nothing goes to these addresses and nothing comes from them, and nobody is told.
    pub fn cut(&self, addresses: &[Ipv4Addr]) {
        self.change_rules("-A", addresses);
    }

    /// Undoes a cut.
    pub fn join(&self, addresses: &[Ipv4Addr]) {
        self.change_rules("-D", addresses);
    }

    fn change_rules(&self, change: &str, addresses: &[Ipv4Addr]) {
        let enter = format!("--net={NAMESPACES}/{}", self.namespace);
        for address in addresses {
            for (chain, end) in [("INPUT", "-s"), ("OUTPUT", "-d")] {
                let address = address.to_string();
                must(&["nsenter", &enter, "iptables", "-w", change, chain, end, &address, "-j", "DROP"]);
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let (base, network) = self.name.rsplit_once('b').unwrap();
        for number in 0..self.machines {
            // A namespace takes its end of the cable with it.
            let _gone = run(&["ip", "netns", "del", &format!("{base}n{network}-{number}")]);
        }
        let _gone = run(&["ip", "link", "del", &self.name]);
    }
}

/// The first net from the one with this number on that this machine does not use.
fn free_net(first: u32) -> [u8; 3] {
    let used = output(&["ip", "-4", "-o", "addr"]);
    let nets = (first..first + NETS).map(|net| [198, 18 + (net / 256 % 2) as u8, (net % 256) as u8]);
    let free = nets.into_iter().find(|[a, b, c]| !used.contains(&format!("inet {a}.{b}.{c}.")));
    free.expect("one of 512 nets is free")
}

/// Removes the networks of tests whose process has ended.
fn remove_abandoned() {
    let namespaces: BTreeSet<_> = fs::read_dir(NAMESPACES)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for namespace in namespaces.iter().filter(|name| is_abandoned(name)) {
        let _gone = run(&["ip", "netns", "del", namespace]);
    }
    let links = output(&["ip", "-o", "link", "show", "type", "bridge"]);
    for link in links.lines().filter_map(|line| line.split(": ").nth(1)).filter(|name| is_abandoned(name)) {
        let _gone = run(&["ip", "link", "del", link]);
    }
}

fn is_abandoned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(MARK) else { return false };
    let process: String = rest.chars().take_while(char::is_ascii_digit).collect();
    !process.is_empty() && !Path::new("/proc").join(process).exists()
}

fn must(arguments: &[&str]) {
    run(arguments).unwrap_or_else(|reason| panic!("{reason}"));
}

fn output(arguments: &[&str]) -> String {
    run(arguments).unwrap_or_else(|reason| panic!("{reason}"))
}

fn run(arguments: &[&str]) -> Result<String, String> {
    let line = arguments.join(" ");
    let output = Command::new(arguments[0]).args(&arguments[1..]).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(format!("{line}: {}", text(&output.stderr))) }
}
