//! The core of a shared dict.

use std::sync::{Mutex, OnceLock, PoisonError};

use procession_shm::WaitError;
use procession_shm::store::{Map, Outcome, Seen, Stamp, Stored, Target, Update};
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::keys::Held;
use super::{ATTEMPTS, give_way, gone, turn};
use crate::codec::{Kept, finish_kept, store_value, take_kept};
use crate::sync::{shared_object, unset};
use crate::{errors, life};

/// A dict of the session: it maps copies of keys to copies of values.
#[pyclass(subclass, frozen, module = "procession._native")]
#[derive(Default)]
pub(crate) struct DictCore {
    map: OnceLock<Map>,
    /// The keys as objects, with their places, for keys that only Python can compare.
    seen: Mutex<Option<Keys>>,
}

/// The others hold their changes back while this is there.
struct Turn<'m>(&'m Map);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.end_turn();
    }
}

struct Keys {
    stamp: Stamp,
    places: Py<PyDict>,
}

shared_object!(DictCore, map, Map::of);

impl DictCore {
    #[inline]
    fn map(&self, py: Python<'_>) -> PyResult<&Map> {
        let map = self.map.get().ok_or_else(unset)?;
        if map.is_orphan() {
            return Err(gone(py, map.handle()));
        }
        Ok(map)
    }

    /// Does something about a key, which may take several attempts; never `Unsure`.
    #[inline]
    fn about<T>(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        held: &Held<'_>,
        mut op: impl FnMut(&Map, Target<'_>) -> Result<Outcome<T>, WaitError>,
    ) -> PyResult<Outcome<T>> {
        let map = self.map(py)?;
        let held = held.key();
        let mut target = Target::Key(&held);
        let mut asked = None;
        for attempt in 0.. {
            if attempt == ATTEMPTS {
                map.ask_for_turn().map_err(errors::shm)?;
                asked = Some(Turn(map));
            }
            let outcome = turn(py, |check| map.wait_turn(check), || op(map, target))?;
            if !matches!(outcome, Outcome::Unsure) {
                return Ok(outcome);
            }
            let (at, stamp) = self.compare(py, map, key)?;
            target = Target::Known(&held, at, stamp);
        }
        drop(asked);
        Err(unset())
    }

    /// As [`Self::map`], for a change.
    #[inline]
    fn map_to_change(&self, py: Python<'_>) -> PyResult<&Map> {
        let map = self.map(py)?;
        give_way(py, || map.is_others_turn())?;
        Ok(map)
    }

    /// Looks for a key as Python does: by hash and `__eq__`, among all keys.
    fn compare(
        &self,
        py: Python<'_>,
        map: &Map,
        key: &Bound<'_, PyAny>,
    ) -> PyResult<(Option<u64>, Stamp)> {
        // Taken out, since finishing keys and comparing them runs any Python code.
        let taken = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut keys = taken.unwrap_or_else(|| Keys {
            stamp: Stamp::default(),
            places: PyDict::new(py).unbind(),
        });
        loop {
            let (stamp, found) = Self::keys_from(py, map, keys.stamp.used)?;
            let places = keys.places.bind(py);
            if stamp.epoch != keys.stamp.epoch {
                places.clear();
                keys.stamp = Stamp {
                    epoch: stamp.epoch,
                    used: 0,
                };
                if stamp.used > 0 {
                    continue;
                }
            }
            for (place, kept) in found {
                places.set_item(finish_kept(py, kept)?, place)?;
            }
            keys.stamp = stamp;
            break;
        }
        let at = keys.places.bind(py).get_item(key)?;
        let at = at.map(|at| at.extract::<u64>()).transpose()?;
        let stamp = keys.stamp;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(keys);
        Ok((at, stamp))
    }

    fn keys_from<'py>(
        py: Python<'py>,
        map: &Map,
        from: u64,
    ) -> PyResult<(Stamp, Vec<(u64, Kept<'py>)>)> {
        let mut found = Vec::new();
        let stamp = turn(
            py,
            |check| map.wait_turn(check),
            || {
                found.clear();
                map.snapshot(from, false, &mut |seen, content, handles| {
                    if let Seen::Key(place) = seen {
                        found.push((place, take_kept(py, content, handles)));
                    }
                })
            },
        )?;
        Ok((stamp, found))
    }

    /// Keys, or keys and values in turn.
    fn all<'py>(&self, py: Python<'py>, values: bool) -> PyResult<Vec<Kept<'py>>> {
        let map = self.map(py)?;
        let mut found = Vec::new();
        turn(
            py,
            |check| map.wait_turn(check),
            || {
                found.clear();
                map.snapshot(0, values, &mut |_, content, handles| {
                    found.push(take_kept(py, content, handles));
                })
            },
        )?;
        Ok(found)
    }

    #[inline]
    fn look_up<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let held = Held::find(py, key)?;
        let outcome = self.about(py, key, &held, |map, target| {
            map.get(target, &mut |c, h| take_kept(py, c, h))
        })?;
        match outcome {
            Outcome::Found(kept) => finish_kept(py, kept).map(Some),
            _ => Ok(None),
        }
    }

    fn take_out<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Kept<'py>>> {
        self.map_to_change(py)?;
        let held = Held::find(py, key)?;
        let outcome = self.about(py, key, &held, |map, target| {
            map.remove(target, &mut |c, h| take_kept(py, c, h))
        })?;
        match outcome {
            Outcome::Found(kept) => Ok(Some(kept)),
            _ => Ok(None),
        }
    }

    #[inline]
    fn set(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let session = self.map_to_change(py)?.handle().session();
        let mut held = Held::store(py, session, key)?;
        let mut stored = store_value(py, session, value)?;
        if let Outcome::Absent =
            self.about(py, key, &held, |map, target| map.set(target, &mut stored))?
        {
            held.stored();
        }
        Ok(())
    }
}

fn key_error(key: &Bound<'_, PyAny>) -> PyErr {
    PyKeyError::new_err((key.clone().unbind(),))
}

#[pymethods]
impl DictCore {
    /// Makes the dict in the session; for `__init__`.
    #[pyo3(signature = (name=""))]
    fn _create(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let map = Map::create(life::session(py)?, name).map_err(errors::shm)?;
        let _ = self.map.set(map);
        Ok(())
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.map(py)?.len() as usize)
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let held = Held::find(py, key)?;
        let outcome = self.about(py, key, &held, Map::contains)?;
        Ok(matches!(outcome, Outcome::Found(())))
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.look_up(py, key)?.ok_or_else(|| key_error(key))
    }

    fn __setitem__(
        &self,
        py: Python<'_>,
        key: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.set(py, key, value)
    }

    fn __delitem__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.take_out(py, key)? {
            Some(_) => Ok(()),
            None => Err(key_error(key)),
        }
    }

    /// The value of a key, or `default`.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.look_up(py, key)?.or(default))
    }

    /// Take a key out and return its value; without it, the default if one is given.
    #[pyo3(signature = (key, *default))]
    fn pop<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if default.len() > 1 {
            return Err(pyo3::exceptions::PyTypeError::new_err(format!(
                "pop expected at most 2 arguments, got {}",
                default.len() + 1
            )));
        }
        match self.take_out(py, key)? {
            Some(kept) => finish_kept(py, kept),
            None => default.get_item(0).map_err(|_| key_error(key)),
        }
    }

    /// Take the newest key out: the key and its value.
    fn popitem<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let map = self.map_to_change(py)?;
        let popped = turn(
            py,
            |check| map.wait_turn(check),
            || map.pop_last(&mut |c, h| take_kept(py, c, h)),
        )?;
        match popped {
            Some((key, value)) => Ok((finish_kept(py, key)?, finish_kept(py, value)?)),
            None => Err(PyKeyError::new_err("popitem(): dictionary is empty")),
        }
    }

    /// The value of a key, which is set to `default` if it is not there.
    #[pyo3(signature = (key, default=None, /))]
    fn setdefault<'py>(
        &self,
        py: Python<'py>,
        key: &Bound<'py, PyAny>,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let session = self.map_to_change(py)?.handle().session();
        let default = default.unwrap_or_else(|| py.None().into_bound(py));
        let mut held = Held::store(py, session, key)?;
        let mut stored = store_value(py, session, &default)?;
        let outcome = self.about(py, key, &held, |map, target| {
            map.set_default(target, &mut stored, &mut |c, h| take_kept(py, c, h))
        })?;
        if let Outcome::Found(kept) = outcome {
            return finish_kept(py, kept);
        }
        held.stored();
        Ok(default)
    }

    /// Take all keys out.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let map = self.map_to_change(py)?;
        turn(py, |check| map.wait_turn(check), || map.clear())
    }

    /// Set all keys of a dict, as one change.
    fn _update(&self, py: Python<'_>, items: &Bound<'_, PyDict>) -> PyResult<()> {
        let map = self.map_to_change(py)?;
        let session = map.handle().session();
        // A copy: pickling runs Python code, which might change the dict.
        let items: Vec<(Bound<'_, PyAny>, Bound<'_, PyAny>)> = items.iter().collect();
        let mut at_once = items.len() > 1;
        let mut helds = Vec::with_capacity(items.len());
        for (key, _) in &items {
            let held = Held::store(py, session, key)?;
            at_once &= !held.is_opaque();
            helds.push(held);
        }
        if at_once {
            let mut values: Vec<Stored> = Vec::with_capacity(items.len());
            for (_, value) in &items {
                values.push(store_value(py, session, value)?);
            }
            let entries = helds.iter().map(Held::key).zip(values).collect();
            let mut update = Update::new(session, entries).map_err(errors::shm)?;
            if turn(py, |check| map.wait_turn(check), || map.update(&mut update))? {
                return Ok(());
            }
        }
        for (key, value) in &items {
            self.set(py, key, value)?;
        }
        Ok(())
    }

    /// The keys, in a list.
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let keys = PyList::empty(py);
        for key in self.all(py, false)? {
            keys.append(finish_kept(py, key)?)?;
        }
        Ok(keys)
    }

    /// The values, in a list.
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let values = PyList::empty(py);
        for value in self.all(py, true)?.into_iter().skip(1).step_by(2) {
            values.append(finish_kept(py, value)?)?;
        }
        Ok(values)
    }

    /// Keys and values, in a list of pairs.
    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let items = PyList::empty(py);
        let mut all = self.all(py, true)?.into_iter();
        while let (Some(key), Some(value)) = (all.next(), all.next()) {
            items.append((finish_kept(py, key)?, finish_kept(py, value)?))?;
        }
        Ok(items)
    }

    /// A dict of the same contents.
    fn copy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let copy = PyDict::new(py);
        let mut all = self.all(py, true)?.into_iter();
        while let (Some(key), Some(value)) = (all.next(), all.next()) {
            copy.set_item(finish_kept(py, key)?, finish_kept(py, value)?)?;
        }
        Ok(copy)
    }
}
