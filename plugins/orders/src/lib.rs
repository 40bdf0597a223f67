//! Keeps the orders among a shop's events and makes them smaller: the job J1 of the bench.

use serde::{Deserialize, Serialize};
use sluice_sdk::{Event, Outputs, Result, consumer, json};

#[derive(Deserialize)]
struct ShopEvent<'a> {
    kind: &'a str,
    user: &'a str,
    amount: f64,
    id: u64,
}

#[derive(Serialize)]
struct Order<'a> {
    id: u64,
    user: &'a str,
    amount: f64,
}

/// Hands orders on, keyed by user.
///
/// # Errors
/// When the event is not JSON of a shop's event.
pub fn orders(event: &Event, out: &mut Outputs) -> Result {
    let shop: ShopEvent = event.json()?;
    if shop.kind == "order" {
        out.send(shop.user, json(Order { id: shop.id, user: shop.user, amount: shop.amount }))?;
    }
    Ok(())
}

consumer!(orders);

#[cfg(test)]
mod tests {
    use sluice_sdk::testing::{Given, Tester};

    use super::orders;

    #[test]
    fn orders_are_kept_and_views_are_not() {
        let event = |kind: &str| {
            Given::value(format!(r#"{{"id":7,"kind":"{kind}","user":"u1","amount":2.5,"page":"/a","agent":"x"}}"#))
        };
        let outcome = Tester::function(orders).process(&[event("view"), event("order")]);
        assert_eq!(outcome.texts(), [r#"{"id":7,"user":"u1","amount":2.5}"#]);
    }
}
