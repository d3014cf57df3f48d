//! Money and other things that are counted: decimals, never binary floats.

use std::fmt;

use rust_decimal::Decimal;

const INTEGER_DIGITS_MAX: usize = 18;
const DECIMALS_MAX: usize = 9;
/// All digits are nines.
pub(super) const BILLIONTHS_MAX: i128 = 10_i128.pow((INTEGER_DIGITS_MAX + DECIMALS_MAX) as u32) - 1;

/// A decimal of at most 18 digits before the point and 9 after it; sums and
/// differences are exact or refused. A counter that was overspent is negative,
/// what a peer writes never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(Decimal);

impl Amount {
    pub const ZERO: Amount = Amount(Decimal::ZERO);

    /// `digits ["." digits]` (§9.6): no sign, no exponent, no spaces, nothing
    /// that a float parser knows and the draft does not (`NaN`, `0x1p3`).
    pub fn parse(text: &str) -> Result<Self, String> {
        let (integer, decimals) = match text.split_once('.') {
            Some((integer, decimals)) => (integer, Some(decimals)),
            None => (text, None),
        };
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(integer) || !decimals.is_none_or(digits) {
            return Err("the amount must be digits, with or without a point and digits".into());
        }
        if integer.len() > INTEGER_DIGITS_MAX || decimals.unwrap_or("").len() > DECIMALS_MAX {
            return Err(format!(
                "the amount has more than {INTEGER_DIGITS_MAX} digits before the point or {DECIMALS_MAX} after it"
            ));
        }
        let value = Decimal::from_str_exact(text).map_err(|error| error.to_string())?;
        Ok(Self(value.normalize()))
    }

    /// The value of a metric as the agent wrote it: the shortest decimal that
    /// reads back as this float. Digits beyond the ninth after the point are what
    /// float arithmetic left there, and rounded; what is not nothing stays so.
    pub fn from_metric(value: f64) -> Result<Self, String> {
        let refused = |why: &str| Err(format!("the value {why}"));
        if value.is_nan() {
            return refused("is not a number");
        }
        if value.is_infinite() {
            return refused("is infinite");
        }
        if value < 0.0 {
            return refused("is negative");
        }
        // Display never uses an exponent; minus zero is zero.
        let text = value.abs().to_string();
        let (integer, decimals) = text.split_once('.').unwrap_or((&text, ""));
        if integer.len() > INTEGER_DIGITS_MAX {
            return refused("has more than 18 digits before the point");
        }
        if decimals.len() <= DECIMALS_MAX {
            return Self::parse(&text);
        }
        let exact: Decimal = text.parse().unwrap_or_default();
        let rounded = exact.round_dp(DECIMALS_MAX as u32).normalize();
        let least = Decimal::new(1, DECIMALS_MAX as u32);
        Ok(Self(rounded.max(least)))
    }

    /// None where the sum would leave the range in which arithmetic is exact.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).and_then(Self::in_range)
    }

    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).and_then(Self::in_range)
    }

    /// Of what is spent: a sum beyond the range stays at its end, more than can be
    /// granted.
    pub fn saturating_add(self, other: Self) -> Self {
        let most = Self::from_billionths(BILLIONTHS_MAX);
        self.checked_add(other).unwrap_or(most)
    }

    /// Of what is left: as far below nothing as the range goes.
    pub fn saturating_sub(self, other: Self) -> Self {
        let least = Self::from_billionths(-BILLIONTHS_MAX);
        self.checked_sub(other).unwrap_or(least)
    }

    /// As a whole number, for sums that are kept up to date: they have to go back
    /// exactly by what they went up, so they may not stop at the range's end.
    pub(super) fn billionths(self) -> i128 {
        let decimals = self.0.scale();
        self.0.mantissa() * 10_i128.pow(DECIMALS_MAX as u32 - decimals)
    }

    /// What is beyond the range stays at its end.
    pub(super) fn from_billionths(count: i128) -> Self {
        let count = count.clamp(-BILLIONTHS_MAX, BILLIONTHS_MAX);
        Self(Decimal::from_i128_with_scale(count, DECIMALS_MAX as u32).normalize())
    }

    /// As a metric's value shows it.
    pub fn to_f64(self) -> f64 {
        // The shortest decimal of a float and its own text agree to 15 digits.
        self.to_string().parse().unwrap_or_default()
    }

    pub fn is_positive(self) -> bool {
        self.0 > Decimal::ZERO
    }

    pub fn is_negative(self) -> bool {
        self.0 < Decimal::ZERO
    }

    /// 18 digits and 9 decimals are 27 of the 28 that `Decimal` holds exactly;
    /// beyond them it would round.
    fn in_range(value: Decimal) -> Option<Self> {
        let limit = Decimal::from(10_i64.pow(INTEGER_DIGITS_MAX as u32));
        (value.abs() < limit).then(|| Self(value.normalize()))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_grammar_and_nothing_else() {
        for (text, shown) in [
            ("5.00", "5"),
            ("0", "0"),
            ("007.50", "7.5"),
            ("0.000000001", "0.000000001"),
            (
                "999999999999999999.999999999",
                "999999999999999999.999999999",
            ),
        ] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "", ".", "1.", ".5", "-1", "+1", "1e3", "NaN", "Inf", "0x1p3", "1_0", " 1", "1 ",
            "1,5", "1.2.3", "٣", "1\0",
        ] {
            assert!(Amount::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Amount::parse(&"1".repeat(19)).is_err());
        assert!(Amount::parse("0.0000000001").is_err());
    }

    #[test]
    fn a_metric_is_what_its_writer_wrote() {
        for (value, shown) in [(0.0234, "0.0234"), (1e-9, "0.000000001"), (-0.0, "0")] {
            assert_eq!(Amount::from_metric(value).unwrap().to_string(), shown);
        }
        // What float arithmetic left is rounded; nothing is free.
        for (value, shown) in [(0.1 + 0.2, "0.3"), (1e-12, "0.000000001")] {
            assert_eq!(Amount::from_metric(value).unwrap().to_string(), shown);
        }
        for (value, why) in [
            (-0.01, "negative"),
            (f64::NAN, "not a number"),
            (f64::INFINITY, "infinite"),
            (1e18, "before the point"),
        ] {
            let error = Amount::from_metric(value).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn arithmetic_is_exact_or_refused() {
        let amount = |text| Amount::parse(text).unwrap();
        let (most, least) = (
            amount("999999999999999999.999999999"),
            amount("0.000000001"),
        );
        assert_eq!(most.checked_add(least), None);
        assert_eq!(most.saturating_add(most), most);
        assert_eq!(
            most.checked_sub(least).unwrap().to_string(),
            "999999999999999999.999999998"
        );
        let owed = Amount::ZERO.checked_sub(most).unwrap();
        assert!(owed.is_negative() && owed.checked_sub(least).is_none());
    }

    #[test]
    fn billionths_are_the_same_amount() {
        let amount = |text| Amount::parse(text).unwrap();
        let most = amount("999999999999999999.999999999");
        let owed = Amount::ZERO.checked_sub(amount("12.5")).unwrap();
        for (amount, count) in [
            (Amount::ZERO, 0),
            (amount("0.000000001"), 1),
            (amount("1200"), 1_200_000_000_000),
            (owed, -12_500_000_000),
            (most, BILLIONTHS_MAX),
        ] {
            assert_eq!(amount.billionths(), count);
            assert_eq!(Amount::from_billionths(count), amount);
        }
        assert_eq!(Amount::from_billionths(i128::MAX), most);
    }
}
