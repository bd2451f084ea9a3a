//! A VPC in the test process: EC2 and the instance metadata service over HTTP, as strict as AWS.
//!
//! A test builds the world, serves it on listeners of its choice, points the driver there by the AWS SDK's own
//! endpoint settings, and then scripts what goes wrong and looks at what is true. All state is behind one lock, every
//! call takes effect under it at once, and nothing is ever read back from the driver.
//!
//! - `world` what there is, and how it looked a while ago
//! - `rules` Assign and Unassign, `prefixes` those of prefixes; `describe` the Describe calls; `errors` every refusal; `switches` what is unverified
//! - `query` and `requests` the wire form of EC2; `ec2` and `imds` the two endpoints; `http` the server below them
//! - `faults`, `calls`, `controls` what goes wrong, what was called, and how a test gets at both; `effect` what changed
//!
//! Time is tokio's: where a test stands the runtime's clock still, lag, late landings and buckets stand still with it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a mistake in a test's world should end the test at once"
)]

mod calls;
mod controls;
mod describe;
mod ec2;
mod effect;
mod errors;
mod faults;
mod http;
mod imds;
mod prefixes;
mod query;
mod requests;
mod rules;
mod state;
mod switches;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::Ipv4Net;

pub use calls::{Call, Outcome};
pub use effect::Effect;
pub use faults::{CallClass, Fault, FaultKind, TokenBucket};
pub use http::Server;
pub use imds::{ImdsMode, ImdsRead, ROLE, ROLE_SECRET, ROLE_TOKEN, access_key_of};
use state::State;
pub use switches::*;
pub use world::{ACCOUNT, GROUP_ID, INSTANCE_TYPES, Platform, REGION, Reservation, VPC_ID, ZONE};
use world::{Change, Eni, overlap};

/// The VPC. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Vpc(Arc<Mutex<State>>);

/// An ENI to be added.
#[derive(Clone, Debug)]
pub struct EniSpec {
    /// `eni-...`
    pub id: String,
    /// The id of its subnet.
    pub subnet: String,
    /// The instance it is attached to.
    pub instance: Option<String>,
    /// As which device.
    pub device_number: u32,
    /// Lower case, with colons.
    pub mac: String,
    /// Its primary address.
    pub primary: Ipv4Addr,
    /// Free text.
    pub description: String,
    /// It belongs to a service of AWS.
    pub requester_managed: bool,
}

impl EniSpec {
    /// A detached ENI whose MAC follows from its primary address.
    pub fn new(id: &str, subnet: &str, primary: Ipv4Addr) -> Self {
        let [a, b, c, d] = primary.octets();
        Self {
            id: id.to_owned(),
            subnet: subnet.to_owned(),
            instance: None,
            device_number: 0,
            mac: format!("02:77:{a:02x}:{b:02x}:{c:02x}:{d:02x}"),
            primary,
            description: String::new(),
            requester_managed: false,
        }
    }

    /// Attached to `instance` as this device.
    pub fn on(self, instance: &str, device_number: u32) -> Self {
        Self { instance: Some(instance.to_owned()), device_number, ..self }
    }

    /// With another MAC.
    pub fn mac(self, mac: &str) -> Self {
        Self { mac: mac.to_owned(), ..self }
    }
}

impl Vpc {
    /// An empty VPC.
    pub fn new(switches: Switches) -> Self {
        Self(Arc::new(Mutex::new(State { switches, imds_has_role: true, ..State::default() })))
    }

    /// A panic in another test thread's closure is that test's failure, not this one's.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves EC2 to all hosts, on the current runtime, until the server is dropped. What is there by now has always
    /// been there: lag shows later changes only.
    pub fn serve_ec2(&self, listener: TcpListener) -> Server {
        self.settle();
        let vpc = self.clone();
        http::serve(listener, move |asked| ec2::answer(vpc.clone(), asked))
    }

    /// Serves the metadata of one instance.
    pub fn serve_imds(&self, instance: &str, listener: TcpListener) -> Server {
        self.settle();
        assert!(self.lock().world.instances.contains_key(instance), "no instance {instance}");
        let (vpc, instance) = (self.clone(), instance.to_owned());
        http::serve(listener, move |asked| imds::answer(vpc.clone(), instance.clone(), asked))
    }

    /// Makes every change so far visible everywhere.
    pub fn settle(&self) {
        self.lock().world.settle();
    }

    /// Adds a subnet.
    pub fn add_subnet(&self, id: &str, cidr: &str) {
        let cidr: Ipv4Net = cidr.parse().expect("a CIDR");
        assert_eq!(cidr, cidr.trunc(), "a subnet has no host bits");
        self.lock().world.subnets.insert(id.to_owned(), cidr);
    }

    /// Adds an instance, without an ENI.
    pub fn add_instance(&self, id: &str, instance_type: &str) {
        assert!(INSTANCE_TYPES.iter().any(|(name, ..)| *name == instance_type), "no instance type {instance_type}");
        self.lock().world.instances.insert(id.to_owned(), instance_type.to_owned());
    }

    /// Adds an ENI.
    pub fn add_eni(&self, spec: EniSpec) {
        let mut state = self.lock();
        let world = &mut state.world;
        assert!(world.subnets[&spec.subnet].contains(&spec.primary), "{} is not in {}", spec.primary, spec.subnet);
        assert!(world.holder(spec.primary).is_none(), "{} is in use", spec.primary);
        if let Some(instance) = &spec.instance {
            assert!(world.instances.contains_key(instance), "no instance {instance}");
        }
        let eni = Eni {
            id: spec.id.clone(),
            subnet: spec.subnet,
            instance: spec.instance,
            device_number: spec.device_number,
            mac: spec.mac,
            primary: spec.primary,
            secondaries: BTreeSet::new(),
            prefixes: BTreeSet::new(),
            description: spec.description,
            requester_managed: spec.requester_managed,
            tags: BTreeMap::new(),
            elastic: BTreeMap::new(),
        };
        assert!(world.enis.insert(spec.id.clone(), eni).is_none(), "{} is there already", spec.id);
        world.apply(Change::EniMade(spec.id));
    }

    /// Gives the ENI a secondary address behind the driver's back.
    pub fn add_address(&self, eni: &str, ip: Ipv4Addr) {
        let mut state = self.lock();
        assert!(state.world.holder(ip).is_none(), "{ip} is in use");
        state.world.apply(Change::Assigned(eni.to_owned(), ip));
    }

    /// Lets a service of AWS take the address: as the primary one of a new ENI `eni`, or as a secondary one of it.
    pub fn take(&self, eni: &str, ip: Ipv4Addr) {
        let subnet = {
            let state = self.lock();
            if state.world.enis.contains_key(eni) {
                None
            } else {
                let subnet = state.world.subnets.iter().find(|(_, cidr)| cidr.contains(&ip));
                Some(subnet.unwrap_or_else(|| panic!("{ip} is in no subnet")).0.clone())
            }
        };
        let Some(subnet) = subnet else {
            return self.add_address(eni, ip);
        };
        let description = "RDSNetworkInterface".to_owned();
        self.add_eni(EniSpec { description, requester_managed: true, ..EniSpec::new(eni, &subnet, ip) });
    }

    /// Takes a secondary address off the ENI behind the driver's back.
    pub fn remove_address(&self, eni: &str, ip: Ipv4Addr) {
        self.lock().world.apply(Change::Unassigned(eni.to_owned(), ip));
    }

    /// Moves a secondary address to another ENI, as an operator's AllowReassignment does.
    pub fn move_address(&self, from: &str, to: &str, ip: Ipv4Addr) {
        let mut state = self.lock();
        state.world.apply(Change::Unassigned(from.to_owned(), ip));
        state.world.apply(Change::Assigned(to.to_owned(), ip));
    }

    /// Gives the ENI a /28 behind the driver's back.
    pub fn add_prefix(&self, eni: &str, prefix: &str) {
        let prefix: Ipv4Net = prefix.parse().expect("a prefix");
        assert!(prefix.prefix_len() == 28 && prefix == prefix.trunc(), "{prefix} is no /28");
        let mut state = self.lock();
        let world = &mut state.world;
        let subnet = world.subnets[&world.enis[eni].subnet];
        assert!(prefixes::is_possible(subnet, prefix), "{prefix} cannot be a prefix in {subnet}");
        assert!(!world.enis.values().any(|eni| eni.touches(prefix)), "{prefix} is in use");
        world.apply(Change::PrefixOn(eni.to_owned(), prefix));
    }

    /// Takes a /28 off the ENI behind the driver's back.
    pub fn remove_prefix(&self, eni: &str, prefix: &str) {
        self.lock().world.apply(Change::PrefixOff(eni.to_owned(), prefix.parse().expect("a prefix")));
    }

    /// Keeps a range of the subnet, whoever has some of it by now.
    pub fn reserve(&self, subnet: &str, cidr: &str, kind: Reservation) {
        let cidr: Ipv4Net = cidr.parse().expect("a CIDR");
        let mut state = self.lock();
        let world = &mut state.world;
        assert!(world.subnets[subnet].contains(&cidr), "{cidr} is not in {subnet}");
        assert!(!world.reservations.iter().any(|(_, other, _)| overlap(*other, cidr)), "{cidr} is reserved already");
        world.reservations.push((subnet.to_owned(), cidr, kind));
    }

    /// Deletes the ENI, as when its instance is terminated; its addresses are free.
    pub fn remove_eni(&self, eni: &str) {
        let mut state = self.lock();
        let gone = state.world.enis[eni].clone();
        state.world.apply(Change::EniGone(Box::new(gone)));
    }

    /// Detaches the ENI; it keeps its addresses.
    pub fn detach_eni(&self, eni: &str) {
        let mut state = self.lock();
        let instance = state.world.enis[eni].instance.clone().expect("it is attached");
        state.world.apply(Change::Detached(eni.to_owned(), instance));
    }

    /// Attaches a detached ENI.
    pub fn attach_eni(&self, eni: &str, instance: &str, device_number: u32) {
        let mut state = self.lock();
        assert!(state.world.instances.contains_key(instance), "no instance {instance}");
        assert!(state.world.enis[eni].instance.is_none(), "{eni} is attached");
        state.world.apply(Change::Attached(eni.to_owned(), instance.to_owned(), device_number));
    }

    /// Detaches the ENI, and attaches it to another instance.
    pub fn move_eni(&self, eni: &str, instance: &str, device_number: u32) {
        self.detach_eni(eni);
        self.attach_eni(eni, instance, device_number);
    }

    /// Tags the ENI.
    pub fn tag(&self, eni: &str, key: &str, value: &str) {
        let mut state = self.lock();
        let eni = state.world.enis.get_mut(eni).expect("an ENI");
        eni.tags.insert(key.to_owned(), value.to_owned());
    }

    /// Associates an Elastic IP with an address of the ENI.
    pub fn associate(&self, eni: &str, ip: Ipv4Addr, public: Ipv4Addr) {
        let mut state = self.lock();
        state.world.enis.get_mut(eni).expect("an ENI").elastic.insert(ip, public);
    }

    /// The ENI's secondary addresses, as they truly are.
    pub fn addresses(&self, eni: &str) -> BTreeSet<Ipv4Addr> {
        self.lock().world.enis[eni].secondaries.clone()
    }

    /// The ENI's prefixes, as they truly are.
    pub fn prefixes(&self, eni: &str) -> BTreeSet<Ipv4Net> {
        self.lock().world.enis[eni].prefixes.clone()
    }

    /// The ENI's primary address.
    pub fn primary(&self, eni: &str) -> Ipv4Addr {
        self.lock().world.enis[eni].primary
    }

    /// The ENI's MAC.
    pub fn mac(&self, eni: &str) -> String {
        self.lock().world.enis[eni].mac.clone()
    }

    /// The ENI that holds the address, if one does.
    pub fn holder(&self, ip: Ipv4Addr) -> Option<String> {
        self.lock().world.holder(ip).map(|eni| eni.id.clone())
    }
}
