//! What windows can come to.

use std::collections::BTreeSet;
use std::ops::AddAssign;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Something that items are added to, such as a sum. Implement it for your own; tuples of aggregates are aggregates.
pub trait Aggregate<I>: Serialize + DeserializeOwned + Clone + Default + 'static {
    /// Adds one item.
    fn add(&mut self, item: &I);

    /// Adds all that was added to another one, which came after.
    fn merge(&mut self, other: Self);
}

/// How many there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Count(pub u64);

impl<I> Aggregate<I> for Count {
    fn add(&mut self, _: &I) {
        self.0 += 1;
    }

    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// Their sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sum<T>(pub T);

impl<T: AddAssign + Copy + Default + Serialize + DeserializeOwned + 'static> Aggregate<T> for Sum<T> {
    fn add(&mut self, item: &T) {
        self.0 += *item;
    }

    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// Their mean: the sum, and how many there were.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct Average {
    /// The sum.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

impl Average {
    /// The mean; none of nothing.
    pub fn mean(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a mean is about so much")]
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

impl Aggregate<f64> for Average {
    fn add(&mut self, item: &f64) {
        self.sum += item;
        self.count += 1;
    }

    fn merge(&mut self, other: Self) {
        self.sum += other.sum;
        self.count += other.count;
    }
}

macro_rules! extremes {
    ($($(#[$doc:meta])* $name:ident: $better:tt),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name<T>(pub Option<T>);

        impl<T> Default for $name<T> {
            fn default() -> Self {
                Self(None)
            }
        }

        impl<T: PartialOrd + Clone + Serialize + DeserializeOwned + 'static> Aggregate<T> for $name<T> {
            fn add(&mut self, item: &T) {
                if self.0.as_ref().is_none_or(|kept| item $better kept) {
                    self.0 = Some(item.clone());
                }
            }

            fn merge(&mut self, other: Self) {
                other.0.iter().for_each(|item| self.add(item));
            }
        }
    )*};
}
extremes!(
    /// The least of them.
    Min: <,
    /// The greatest of them.
    Max: >
);

/// All that are different, each once. It keeps every one of them: for many, count them in another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Ord + Deserialize<'de>"))]
pub struct Distinct<T>(pub BTreeSet<T>);

impl<T> Default for Distinct<T> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<T: Ord + Clone + Serialize + DeserializeOwned + 'static> Aggregate<T> for Distinct<T> {
    fn add(&mut self, item: &T) {
        if !self.0.contains(item) {
            self.0.insert(item.clone());
        }
    }

    fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

macro_rules! tuples {
    ($(($($name:ident $at:tt),*))*) => {$(
        impl<I, $($name: Aggregate<I>),*> Aggregate<I> for ($($name,)*) {
            fn add(&mut self, item: &I) {
                $(self.$at.add(item);)*
            }

            fn merge(&mut self, other: Self) {
                $(self.$at.merge(other.$at);)*
            }
        }
    )*};
}
tuples! { (A 0, B 1) (A 0, B 1, C 2) (A 0, B 1, C 2, D 3) }
