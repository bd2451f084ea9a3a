//! What nobody could check against live AWS, as switches.
//!
//! The default of each is the likeliest answer. A client must be right under every one of them, so suites loop over
//! [`Switches::all`], which flips one switch at a time.

/// Assign with an address that is already a secondary address of the same ENI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OwnAddress {
    /// Success, nothing changes.
    #[default]
    Accepted,
    /// The same error as for an address of another ENI.
    Refused,
}

/// Which addresses a successful Assign lists in its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssignReply {
    /// All that were asked for.
    #[default]
    Requested,
    /// Only those that were not there before.
    NewOnly,
    /// All that the ENI has then, as the emulator moto answers. Not in [`Switches::all`].
    Whole,
}

/// Assign with a list of which some addresses sit elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AssignRefused {
    /// Nothing is assigned.
    #[default]
    FailsWhole,
    /// The others are assigned, and the call fails all the same.
    AssignsRest,
}

/// Unassign with a list of which some addresses are not on the ENI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnassignUnknown {
    /// Nothing is removed.
    #[default]
    FailsWhole,
    /// The others are removed, and the call fails all the same.
    RemovesKnown,
}

/// Unassign of an ENI's primary address; it is refused either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnassignPrimary {
    /// With a message that speaks of the primary address.
    #[default]
    OwnMessage,
    /// As if the address were unknown.
    AsUnknown,
}

/// Which addresses the "move is not allowed" message names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InUseNames {
    /// Those that sit elsewhere.
    #[default]
    Offending,
    /// The whole list of the call.
    WholeList,
}

/// Wording for AWS's five addresses of a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReservedText {
    /// "subnet's reserved address range"
    #[default]
    AddressRange,
    /// "subnet's reserved range"
    Range,
}

/// Wording of `RequestLimitExceeded`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThrottleText {
    /// "Request limit exceeded."
    #[default]
    Old,
    /// "Account N has been throttled on ec2:X because it exceeded its request rate limit."
    New,
}

/// The code for none, or more than one, of address list, count and prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListOrCount {
    /// `InvalidParameter` for none, `InvalidParameterCombination` for several.
    #[default]
    ByCase,
    /// `InvalidParameter` for both.
    Parameter,
    /// `InvalidParameterCombination` for both.
    Combination,
}

/// An address that occurs twice in one list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// `InvalidParameterValue`.
    #[default]
    Refused,
    /// Counted once.
    Collapsed,
}

/// The HTTP status of `DryRunOperation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DryRunStatus {
    /// As documented.
    #[default]
    PreconditionFailed412,
    /// As other client errors.
    BadRequest400,
}

/// `DryRun` on Assign and Unassign, which the API model does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MutatingDryRun {
    /// `UnknownParameter`, as for any name that is not in the model.
    #[default]
    Unknown,
    /// Permissions are checked and nothing is changed.
    Checked,
}

/// What is said to an Assign of a prefix that cannot be had: held, partly in use, at an end of the subnet or outside of it,
/// reserved, or on an instance type that takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrefixRefusal {
    /// What is said of addresses, with `x/28` in an address's place.
    #[default]
    NamesPrefix,
    /// The same, of those of its addresses that it is because of.
    NamesAddresses,
    /// `InsufficientCidrBlocks`, as if a number of prefixes had been asked for.
    CidrBlocks,
    /// Something else. So with an Unassign of a prefix that is not there.
    Unheard,
}

/// A prefix whose address has host bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misaligned {
    /// "invalid value for parameter address"
    #[default]
    Refused,
    /// Taken for the /28 that the address lies in.
    Truncated,
}

/// Addresses and prefixes in one Assign, or in one Unassign.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BothLists {
    /// As where a list and a number are given.
    #[default]
    Refused,
    /// Both are done.
    Accepted,
}

/// Assign with a single address that lies in a prefix of the same ENI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberOfOwn {
    /// As with an address of another ENI.
    #[default]
    Refused,
    /// Success, nothing changes.
    Accepted,
}

/// What is said to an Assign with a single address that lies in another ENI's prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemberOfOther {
    /// What is said of another ENI's address.
    #[default]
    NamesAddress,
    /// The same, with that prefix in the address's place.
    NamesPrefix,
    /// Something else.
    Unheard,
}

/// Assign of a prefix in a CIDR reservation of the subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InReservation {
    /// As anywhere else.
    #[default]
    Accepted,
    /// Refused in one of type `explicit`.
    ExplicitRefused,
    /// Refused in one of type `prefix`.
    PrefixRefused,
}

/// One choice for each unverified fact about prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the other types say it")]
pub struct PrefixSwitches {
    /// Assign of a prefix that the same ENI has.
    pub own: OwnAddress,
    /// Which prefixes a successful Assign lists.
    pub assign_reply: AssignReply,
    /// Assign of several of which some cannot be had.
    pub assign_refused: AssignRefused,
    /// Unassign of several of which some are not there.
    pub unassign_unknown: UnassignUnknown,
    pub refusal: PrefixRefusal,
    pub misaligned: Misaligned,
    pub both_lists: BothLists,
    pub member_of_own: MemberOfOwn,
    pub member_of_other: MemberOfOther,
    pub in_reservation: InReservation,
}

/// One choice for each unverified fact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each type says it")]
pub struct Switches {
    pub own_address: OwnAddress,
    pub assign_reply: AssignReply,
    pub assign_refused: AssignRefused,
    pub unassign_unknown: UnassignUnknown,
    pub unassign_primary: UnassignPrimary,
    pub in_use_names: InUseNames,
    pub reserved_text: ReservedText,
    pub throttle_text: ThrottleText,
    pub list_or_count: ListOrCount,
    pub duplicates: Duplicates,
    pub dry_run_status: DryRunStatus,
    pub mutating_dry_run: MutatingDryRun,
    pub prefixes: PrefixSwitches,
}

impl Switches {
    /// The default, then one variant for each switch and each of its other positions.
    pub fn all() -> Vec<(&'static str, Self)> {
        let d = Self::default;
        vec![
            ("default", d()),
            ("own_address=Refused", Self { own_address: OwnAddress::Refused, ..d() }),
            ("assign_reply=NewOnly", Self { assign_reply: AssignReply::NewOnly, ..d() }),
            ("assign_refused=AssignsRest", Self { assign_refused: AssignRefused::AssignsRest, ..d() }),
            ("unassign_unknown=RemovesKnown", Self { unassign_unknown: UnassignUnknown::RemovesKnown, ..d() }),
            ("unassign_primary=AsUnknown", Self { unassign_primary: UnassignPrimary::AsUnknown, ..d() }),
            ("in_use_names=WholeList", Self { in_use_names: InUseNames::WholeList, ..d() }),
            ("reserved_text=Range", Self { reserved_text: ReservedText::Range, ..d() }),
            ("throttle_text=New", Self { throttle_text: ThrottleText::New, ..d() }),
            ("list_or_count=Parameter", Self { list_or_count: ListOrCount::Parameter, ..d() }),
            ("list_or_count=Combination", Self { list_or_count: ListOrCount::Combination, ..d() }),
            ("duplicates=Collapsed", Self { duplicates: Duplicates::Collapsed, ..d() }),
            ("dry_run_status=400", Self { dry_run_status: DryRunStatus::BadRequest400, ..d() }),
            ("mutating_dry_run=Checked", Self { mutating_dry_run: MutatingDryRun::Checked, ..d() }),
        ]
    }

    /// Ways of emulators. Apart, lest the seeds of random sequences change their meaning.
    pub fn of_emulators() -> Vec<(&'static str, Self)> {
        vec![("assign_reply=Whole", Self { assign_reply: AssignReply::Whole, ..Self::default() })]
    }

    /// One variant for each switch about prefixes and each of its other positions. Apart for the same reason.
    pub fn of_prefixes() -> Vec<(&'static str, Self)> {
        let d = PrefixSwitches::default;
        let variants = [
            ("prefix own=Refused", PrefixSwitches { own: OwnAddress::Refused, ..d() }),
            ("prefix assign_reply=NewOnly", PrefixSwitches { assign_reply: AssignReply::NewOnly, ..d() }),
            ("prefix assign_refused=AssignsRest", PrefixSwitches { assign_refused: AssignRefused::AssignsRest, ..d() }),
            (
                "prefix unassign_unknown=RemovesKnown",
                PrefixSwitches { unassign_unknown: UnassignUnknown::RemovesKnown, ..d() },
            ),
            ("prefix refusal=NamesAddresses", PrefixSwitches { refusal: PrefixRefusal::NamesAddresses, ..d() }),
            ("prefix refusal=CidrBlocks", PrefixSwitches { refusal: PrefixRefusal::CidrBlocks, ..d() }),
            ("prefix refusal=Unheard", PrefixSwitches { refusal: PrefixRefusal::Unheard, ..d() }),
            ("prefix misaligned=Truncated", PrefixSwitches { misaligned: Misaligned::Truncated, ..d() }),
            ("prefix both_lists=Accepted", PrefixSwitches { both_lists: BothLists::Accepted, ..d() }),
            ("prefix member_of_own=Accepted", PrefixSwitches { member_of_own: MemberOfOwn::Accepted, ..d() }),
            (
                "prefix member_of_other=NamesPrefix",
                PrefixSwitches { member_of_other: MemberOfOther::NamesPrefix, ..d() },
            ),
            ("prefix member_of_other=Unheard", PrefixSwitches { member_of_other: MemberOfOther::Unheard, ..d() }),
            (
                "prefix in_reservation=ExplicitRefused",
                PrefixSwitches { in_reservation: InReservation::ExplicitRefused, ..d() },
            ),
            (
                "prefix in_reservation=PrefixRefused",
                PrefixSwitches { in_reservation: InReservation::PrefixRefused, ..d() },
            ),
        ];
        let whole = |(name, prefixes)| (name, Self { prefixes, ..Self::default() });
        variants.into_iter().map(whole).collect()
    }
}
