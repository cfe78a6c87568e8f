//! What the controller tells of an object by Events, as one enum: people and programs filter by these words, so that the
//! reference lists them all.

macro_rules! told {
    ($($name:ident: $meaning:literal,)*) => {
        /// The reason of an Event about what the controller did. Beside these, an Event has a reason of Ready that became
        /// false ([`super::reasons::Reason`]).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Told {
            $(#[doc = $meaning] $name,)*
        }

        impl Told {
            /// All of them, in the order of the reference.
            pub const ALL: &[Told] = &[$(Told::$name,)*];

            /// The word as it stands in an Event.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Told::$name => stringify!($name),)* }
            }

            /// What it means, for people.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Told::$name => $meaning,)* }
            }
        }
    };
}

told! {
    Created: "The remote webhook was created.",
    Adopted: "A remote webhook with this url was there and was taken over.",
    Updated: "The named fields were changed at CHeKT, and why.",
    Reactivated: "CHeKT had switched the remote webhook off; it was switched on again.",
    Deleted: "A remote webhook was deleted, and why.",
    Orphaned: "The remote webhook was let go of without being deleted, and may still exist. Also on the account.",
    Ready: "The condition Ready became true.",
    Rejected: "CHeKT refused a request, with its words.",
}
