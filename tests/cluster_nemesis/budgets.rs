//! The verdict over a job's budget and what it gave of it to its children (pure), from what
//! the log has of them. Amounts are thousandths of one currency.

/// A job with a budget, and its children.
#[derive(Debug)]
pub struct Family {
    pub granted: i64,
    /// What the job's own stream says, in its order, with the positions in the log.
    pub said: Vec<(i64, Said)>,
    pub children: Vec<Child>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Spent(i64),
    /// There is this child now.
    Child(String),
    /// No child was made for as much, asked for when all children were over.
    Refused(i64),
}

#[derive(Debug)]
pub struct Child {
    pub id: String,
    /// None when it spends of its parent's.
    pub granted: Option<i64>,
    pub spent: i64,
    pub ended_at: i64,
}

/// Nothing is spent or given twice, what was not spent comes back, and each child is told
/// of once.
pub fn family(family: &Family) -> Result<(), String> {
    let own = |(_, said): &(i64, Said)| match said {
        Said::Spent(amount) => *amount,
        _ => 0,
    };
    let spent = family.said.iter().map(own).sum::<i64>();
    let below = family.children.iter().map(|child| child.spent).sum::<i64>();
    if spent + below > family.granted + under_way(family) {
        return Err(format!("{spent} and below it {below} spent in {family:?}"));
    }
    let over = |child: &&Child| child.granted.is_some_and(|granted| child.spent > granted);
    if let Some(child) = family.children.iter().find(over) {
        return Err(format!("{child:?} spent more than it was given"));
    }
    for (index, (position, said)) in family.said.iter().enumerate() {
        let before = &family.said[..index];
        let spent = before.iter().map(own).sum::<i64>();
        let told = |child: &&Child| {
            let told = |(_, said): &(i64, Said)| *said == Said::Child(child.id.clone());
            before.iter().any(told)
        };
        let earlier = family.children.iter().filter(told);
        match said {
            Said::Spent(_) => {}
            Said::Child(id) => {
                let child = family.children.iter().find(|child| child.id == *id);
                let child = child.ok_or_else(|| format!("{id} was told of and is not there"))?;
                if earlier.clone().any(|child| child.id == *id) {
                    return Err(format!("{id} was told of twice"));
                }
                let held = spent + earlier.map(|child| child.least(*position)).sum::<i64>();
                // One that was made and not told of, as a kill came between, may be over when
                // it is.
                let granted = child.granted.filter(|granted| *granted > 0);
                let granted = granted.filter(|_| child.ended_at > *position);
                if granted.is_some_and(|granted| held + granted > family.granted) {
                    return Err(format!("{id} was given what is not there: {family:?}"));
                }
            }
            Said::Refused(amount) => {
                let held = spent + earlier.map(|child| child.most(*position)).sum::<i64>();
                if held + amount <= family.granted {
                    return Err(format!(
                        "{amount} were refused at {position} with {held} held: {family:?}"
                    ));
                }
            }
        }
    }
    Ok(())
}

/// What the job may spend beyond all there was: of two that spend of one budget each may
/// have been allowed its last operation before the other had said what its own cost. A job
/// that is begun again spends beside a child that shares its budget.
fn under_way(family: &Family) -> i64 {
    let shares = |said: &Said| match said {
        Said::Child(id) => {
            let mut sharing = family
                .children
                .iter()
                .filter(|child| child.granted.is_none());
            sharing.any(|child| child.id == *id)
        }
        _ => false,
    };
    let beside = family.said.iter().skip_while(|(_, said)| !shares(said));
    let costs = beside.filter_map(|(_, said)| match said {
        Said::Spent(amount) => Some(*amount),
        _ => None,
    });
    costs.max().unwrap_or(0)
}

impl Child {
    /// Of its parent's, shortly before a position.
    fn least(&self, position: i64) -> i64 {
        match self.granted {
            Some(granted) if self.ended_at > position => granted,
            Some(_) => self.spent,
            None => 0,
        }
    }

    fn most(&self, position: i64) -> i64 {
        match self.granted {
            Some(granted) if self.ended_at > position => granted,
            _ => self.spent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(id: &str, granted: Option<i64>, spent: i64, ended_at: i64) -> Child {
        Child {
            id: id.into(),
            granted,
            spent,
            ended_at,
        }
    }

    fn of(said: Vec<(i64, Said)>, children: Vec<Child>) -> Result<(), String> {
        let granted = 400;
        family(&Family {
            granted,
            said,
            children,
        })
    }

    fn told(id: &str) -> Said {
        Said::Child(id.into())
    }

    #[test]
    fn what_a_child_did_not_spend_comes_back_and_no_more() {
        let children = || vec![child("a", Some(300), 100, 5), child("b", Some(200), 0, 9)];
        let said = |last| vec![(1, Said::Spent(100)), (2, told("a")), (6, last)];
        let refused = |amount| of(said(Said::Refused(amount)), children());
        assert_eq!(refused(300), Ok(()));
        assert!(refused(200).is_err(), "there were 200");
        assert_eq!(of(said(told("b")), children()), Ok(()));
        // While the first one runs there is nothing left.
        let early = vec![(1, Said::Spent(100)), (2, told("a")), (4, told("b"))];
        assert!(of(early, children()).is_err());
        // Told of when it is over, and what it left is spent already.
        let late = vec![(1, Said::Spent(100)), (6, Said::Spent(200)), (7, told("a"))];
        assert_eq!(of(late, children()), Ok(()));
        let unjust = vec![(2, told("a")), (4, Said::Refused(100))];
        assert!(of(unjust, children()).is_err(), "100 are free beside it");
    }

    #[test]
    fn nobody_spends_more_than_all_have() {
        let all = |shared| vec![child("a", Some(200), 200, 5), child("b", None, shared, 9)];
        let said = || vec![(1, Said::Spent(100)), (2, told("a")), (3, told("b"))];
        assert_eq!(of(said(), all(100)), Ok(()));
        assert!(of(said(), all(200)).is_err());
        // Begun again, it was allowed one more operation beside the child.
        let again = |last: Vec<_>| [said(), last].concat();
        let one_more = again(vec![(4, Said::Spent(100))]);
        assert_eq!(of(one_more.clone(), all(100)), Ok(()));
        assert!(of(one_more, all(200)).is_err());
        let two_more = again(vec![(4, Said::Spent(100)), (5, Said::Spent(100))]);
        assert!(of(two_more, all(100)).is_err());
        let over = vec![child("a", Some(100), 200, 5)];
        assert!(of(vec![(2, told("a"))], over).is_err());
    }

    #[test]
    fn a_child_is_told_of_once_and_is_there() {
        let children = || vec![child("a", Some(100), 0, 5)];
        assert_eq!(of(vec![(2, told("a"))], children()), Ok(()));
        assert!(of(vec![(2, told("a")), (3, told("a"))], children()).is_err());
        assert!(of(vec![(2, told("b"))], children()).is_err());
    }
}
