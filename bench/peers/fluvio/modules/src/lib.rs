//! J1 to J3 as a SmartModule, one at a time.

use fluvio_smartmodule::{RecordData, Result, SmartModuleRecord, smartmodule};

#[cfg(feature = "J1")]
#[smartmodule(filter_map)]
pub fn orders(record: &SmartModuleRecord) -> Result<Option<(Option<RecordData>, RecordData)>> {
    #[derive(serde::Deserialize)]
    struct ShopEvent<'a> {
        kind: &'a str,
        user: &'a str,
        amount: f64,
        id: u64,
    }
    #[derive(serde::Serialize)]
    struct Order<'a> {
        id: u64,
        user: &'a str,
        amount: f64,
    }
    let ShopEvent { kind, user, amount, id } = serde_json::from_slice(record.value.as_ref())?;
    if kind != "order" {
        return Ok(None);
    }
    Ok(Some((Some(user.into()), serde_json::to_vec(&Order { id, user, amount })?.into())))
}

#[cfg(feature = "J2")]
#[smartmodule(filter_map)]
pub fn totals(record: &SmartModuleRecord) -> Result<Option<(Option<RecordData>, RecordData)>> {
    use std::cell::RefCell;
    use std::collections::HashMap;
    #[derive(serde::Deserialize)]
    struct Payment {
        cents: u64,
    }
    #[derive(serde::Serialize, Clone, Copy, Default)]
    struct Total {
        count: u64,
        cents: u64,
    }
    thread_local! {
        static TOTALS: RefCell<HashMap<Vec<u8>, Total>> = RefCell::default();
    }
    let payment: Payment = serde_json::from_slice(record.value.as_ref())?;
    let key = record.key.as_ref().map(|key| key.as_ref().to_vec()).unwrap_or_default();
    let total = TOTALS.with_borrow_mut(|totals| {
        let total = totals.entry(key.clone()).or_default();
        total.count += 1;
        total.cents += payment.cents;
        *total
    });
    Ok(Some((Some(key.into()), serde_json::to_vec(&total)?.into())))
}

#[cfg(feature = "J3")]
#[smartmodule(filter_map)]
pub fn through(record: &SmartModuleRecord) -> Result<Option<(Option<RecordData>, RecordData)>> {
    Ok(Some((record.key.clone(), record.value.clone())))
}
