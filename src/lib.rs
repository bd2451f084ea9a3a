//! ec2-ipam: a Docker IPAM driver for ipvlan networks on EC2.
//!
//! Containers get secondary private addresses of an ENI of their host. A table, in MySQL for a fleet or in an SQLite file
//! for one host, says whose each address is; a journal of the host's own says what its containers have; EC2 says what is
//! assigned; Docker says what is in use. A container's start and stop are written to the journal, and the table follows.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | pool | Docker's: the addresses of a network. Here: one ENI's, in its subnet |
//! | journal | the host's own file of what the addresses of its ENIs are to it; Docker is answered once it is written |
//! | holding | one address in the journal: idle, a lease, or leaving; whose it was last, and when it was let go |
//! | lease | an address in use by a container of the ENI's host |
//! | use | an address in a container's hands, from its grant to its end; history is what is kept of them |
//! | leaving | being given back, by the journal's word; it never becomes idle or a lease again |
//! | post | to tell the table what the journal says of an address; until then it is unposted |
//! | mark | which journal it is, and how many commits it has had; the table keeps, for each ENI, the one that spoke last |
//! | doubt | what came from the table alone, while the journal is new or older: given to nobody, and not given back |
//! | claim | the token of whoever holds a row: `on` while an Assign may be in flight, `off` for an Unassign, `lease` |
//! | warm | on the ENI, idle, usable at once |
//! | cooling | on the ENI, idle, but let go too recently to be given to another container |
//! | foreign | in use by something that is not ours: another ENI, a database, a load balancer, the host itself |
//! | slot | a place on an ENI, of which the instance type allows so many; the primary address has one |
//! | block | a whole /28, whose sixteen addresses take one slot, and move to an ENI and off it together |
//! | unit | what takes a slot: a single address, or a block |
//! | drained | of a host: nobody gets an address of its own ENIs, and nothing idle is kept on them |
//! | roll | the hosts that the table knows, as they enter themselves, and what each is asked |
//! | distant | of an ENI: its host is another one, without a driver; a server serves it, by EC2's word and the table alone |
//! | sender | of the servers of a distant ENI, the one that gives its addresses back; a row in the table says which |
//! | settle | to find out what became of a call whose outcome is not known |
//!
//! # States of an address
//!
//! In the journal of the ENI's host, where they are first:
//!
//! ```text
//!            put on              give               release: it cools
//!     none ----------> idle ---------------> lease ----------------------> idle
//!                      |                           take back: as cold as it was
//!                      | leave               off the ENI
//!                      +---------> leaving -------------> none
//!
//!     none -- put on --> lease, where somebody waits for it; put on and off: by EC2's own word
//! ```
//!
//! In the table, which the fleet engine moves before each call to EC2 and after it, and which follows the journal between:
//!
//! ```text
//!             claim                follow                 give up              gone
//!     free ----------> allocated ----------> ready ----------> allocated ----------> free
//!      |                  on      \           ^  |                off
//!      |                  |        \ follow   |  | follow
//!      | foreign          | foreign \         |  v
//!      +-----> occupied <-+          +-----> occupied
//!              (no claim)                    lease
//!
//!     reserved for a name -- claim --> allocated on, and reserved again where another address would become free;
//!     occupied (no claim) -- gone --> free, -- adopt --> allocated on, -- follow --> occupied lease: a container has it;
//!     allocated off -- follow --> ready, occupied lease: an older one that a database brought back, and nothing leaves;
//!     anything of an ENI that is no more -- eni gone --> free
//!     anything of another host's ENI, in a table of one host -- foreign --> occupied (no claim), -- eni gone --> free
//! ```
//!
//! [`address`](domain::address) has the table of transitions, and nothing else changes a row. [`holding`](domain::holding)
//! says how a row follows. What the table does not give to the ENI is not forced.
//!
//! # Invariants
//!
//! - I1 One address, at most one container, across the fleet.
//! - I2 Given only when EC2 has said that it is on the ENI.
//! - I3 No change in EC2 without a committed claim or lease.
//! - I4 No transaction and no connection held across a call to EC2, IMDS or Docker; and no grant of a warm address, and no
//!   release, waits for the database, EC2 or IMDS.
//! - I5 Every UPDATE names the status, ENI, claim, holder and `in_block` that it expects. Not found means that somebody else
//!   moved: look again.
//! - I6 From any crash, within two reconciles begun after the settle age rows, EC2 and Docker agree; nothing stays lost.
//! - I7 Primary, reserved, gateway and the host's own addresses are never given; what is reserved for a name is, to the
//!   container of that name and to whoever asks for the address itself.
//! - I8 Releases are idempotent.
//! - I9 Every request ends within its deadline; what was granted and not answered is taken back, without cool-down. Over
//!   TCP, where nothing tells who has read what, whatever was begun to be sent was answered.
//! - I10 An automatic grant gives no address to another container before its cool-down is over, unless that or failing is all
//!   that is left; then it is the coldest, and it is logged.
//! - I11 What was answered to Docker survives any one of: the driver's crash, the host's reboot, the database's failover with
//!   loss of its last commits, the loss of the journal.
//! - I12 The table follows the journal: with the database there, every row of this host's ENIs says within ten seconds what
//!   the journal says, or there is a finding.
//!
//! I4 holds where the journal takes writes and knows the address. It may wait a moment for IMDS to say whose the ENI is, and
//! for the table as the driver starts: bounds that are short, and after which it goes on without. A distant ENI has no journal:
//! each of its grants and releases is a commit in the table, and what Docker has of it nobody here can see (I6).
//!
//! # Reading order
//!
//! This page; [`domain`], its rows, its holdings and its plan; [`journal`]; in [`eni`] a grant, a release, a post, the doubt,
//! then the task; [`fleet`]; [`driver`]; [`store`] and [`outside`] last. ARCHITECTURE.md walks through what happens.
//!
//! # Map
//!
//! Dependencies point down only; adapters do one IO each, decide nothing, and never import each other. A test reads this.
//!
//! ```text
//! main                                     the process
//! cli                                      the command line: arguments, what they do, the conformance of real EC2 and IMDS
//! socket                                   listeners, TLS, connections, Docker's calls, the driver's own calls
//! driver                                   composes: Docker's four calls, the ENIs served, reconcile, scan, take-up, roll,
//!                                          status, history, doctor, operators' wishes
//! eni                                      one ENI: grants, releases, posts, and the one task that calls EC2 for it
//! fleet                                    between the table and EC2: acquire, give back, post, look; a subnet's rows
//! config                                   settings
//! late, counts                             waiting for the outside; what is counted for Prometheus
//! error                                    why a call was refused
//! store                                    the table: MySQL or SQLite
//! journal                                  what this host's containers have, and whether it is drained: durable, and in memory
//! outside (ec2, imds, link, engine, rds)   adapters: EC2, metadata, interfaces, Docker's API, tokens for RDS; one IO each
//! domain                                   values and decisions, no IO: names, subnets, rows and their transitions, plans
//! once, telemetry, metrics                 asked once for all, told once; logs; what figures are made of
//! plain, backoff, supervise, random        text from outside; pauses between attempts; what may not die alone; chance
//! fail_point                               points where tests stop it
//! ```

pub mod backoff;
pub mod cli;
pub mod config;
pub mod counts;
pub mod domain;
pub mod driver;
pub mod eni;
pub mod error;
pub mod fail_point;
pub mod fleet;
pub mod journal;
pub mod late;
pub mod metrics;
pub mod once;
pub mod outside;
pub mod plain;
pub mod random;
pub mod socket;
pub mod store;
pub mod supervise;
pub mod telemetry;
