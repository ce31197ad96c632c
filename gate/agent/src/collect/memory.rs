//! The memory of the service, read without stopping it.

use std::{
    io::{IoSlice, IoSliceMut},
    sync::Arc,
};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
    unistd::Pid,
};

/// The memory of another process.
pub trait RemoteMemory: Send + Sync {
    /// Reads `length` bytes at each of the addresses into one buffer, in this order.
    ///
    /// # Errors
    /// Fails if the process is gone or a range is not mapped.
    fn read(&self, addresses: &[u64], length: usize) -> nix::Result<Vec<u8>>;

    /// Writes bytes at an address.
    ///
    /// # Errors
    /// Fails if the process is gone or may not write there itself.
    fn write(&self, address: u64, bytes: &[u8]) -> nix::Result<()>;
}

/// A process whose memory is read with `process_vm_readv`.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMemory {
    pid: Pid,
}

/// The most ranges in one system call (`UIO_MAXIOV`, include/uapi/linux/uio.h, Linux 6.18).
const MAXIMUM_RANGES: usize = 1024;

impl ProcessMemory {
    /// The memory of the process with this id.
    pub const fn new(pid: Pid) -> Self {
        Self { pid }
    }
}

impl RemoteMemory for ProcessMemory {
    fn read(&self, addresses: &[u64], length: usize) -> nix::Result<Vec<u8>> {
        let remote: Vec<_> = addresses
            .iter()
            .map(|base| Ok(RemoteIoVec { base: to_address(*base)?, len: length }))
            .collect::<nix::Result<_>>()?;
        let mut bytes = vec![0; remote.len() * length];
        for (local, remote) in bytes.chunks_mut(MAXIMUM_RANGES * length.max(1)).zip(remote.chunks(MAXIMUM_RANGES)) {
            let wanted = local.len();
            let read = process_vm_readv(self.pid, &mut [IoSliceMut::new(local)], remote)?;
            if read != wanted {
                return Err(nix::Error::EFAULT);
            }
        }
        Ok(bytes)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> nix::Result<()> {
        let remote = RemoteIoVec { base: to_address(address)?, len: bytes.len() };
        let written = process_vm_writev(self.pid, &[IoSlice::new(bytes)], &[remote])?;
        if written == bytes.len() { Ok(()) } else { Err(nix::Error::EFAULT) }
    }
}

/// The most that is read at once, bytes. Sizes and numbers of what is read come from the service's executable and memory,
/// which may be hostile. The largest known reading is that of the counts of 100,000 buckets of the heap profile, 13 MB.
const MAXIMUM_READ: usize = 64 << 20;

/// The service's memory, and where its executable is loaded in it.
#[derive(Clone)]
pub(super) struct ServiceMemory {
    memory: Arc<dyn RemoteMemory>,
    /// The number that is added to an address of the file to get one of the process.
    bias: u64,
}

impl ServiceMemory {
    pub(super) fn new(memory: impl RemoteMemory + 'static, bias: u64) -> Self {
        Self { memory: Arc::new(memory), bias }
    }

    /// The number that is added to an address of the file to get one of the process.
    pub(super) const fn bias(&self) -> u64 {
        self.bias
    }

    /// The address in the process of the file's `address`.
    pub(super) const fn global(&self, address: u64) -> u64 {
        address.wrapping_add(self.bias)
    }

    /// Reads `length` bytes at each address of the process. See [`RemoteMemory::read`].
    ///
    /// # Errors
    /// Fails also, with `EOVERFLOW`, if that is more than 64 MiB.
    pub(super) fn read(&self, addresses: impl IntoIterator<Item = u64>, length: usize) -> nix::Result<Vec<u8>> {
        let addresses: Vec<u64> = addresses.into_iter().collect();
        match addresses.len().checked_mul(length) {
            Some(total) if total <= MAXIMUM_READ => self.memory.read(&addresses, length),
            Some(_) | None => Err(nix::Error::EOVERFLOW),
        }
    }

    /// Reads the word at an address of the process.
    pub(super) fn word(&self, address: u64) -> nix::Result<u64> {
        Ok(number::<8>(&self.memory.read(&[address], 8)?, 0))
    }

    /// Reads the 8-byte variable at `address` of the file.
    pub(super) fn global_word(&self, address: u64) -> nix::Result<u64> {
        self.word(self.global(address))
    }

    /// Reads the 4-byte variable at `address` of the file.
    pub(super) fn global_int32(&self, address: u64) -> nix::Result<u64> {
        Ok(number::<4>(&self.memory.read(&[self.global(address)], 4)?, 0))
    }

    /// Writes bytes at an address of the process. See [`RemoteMemory::write`].
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> nix::Result<()> {
        self.memory.write(address, bytes)
    }
}

/// Nothing is mapped past the end of the address space.
fn to_address(address: u64) -> nix::Result<usize> {
    usize::try_from(address).map_err(|_| nix::Error::EFAULT)
}

/// The `N`-byte little-endian number at `offset`; 0 if the buffer is too short. Callers rule that out by reading whole
/// structures. Every platform of memgate is little-endian.
pub(super) fn number<const N: usize>(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(field) = bytes.get(offset..offset + N) {
        word[..N].copy_from_slice(field);
    }
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_at_several_places() {
        let values = [1_u64, 2, 3];
        let memory = ProcessMemory::new(Pid::this());
        let base = values.as_ptr() as u64;
        let bytes = memory.read(&[base + 16, base], 8).unwrap();
        assert_eq!((number::<8>(&bytes, 0), number::<8>(&bytes, 8)), (3, 1));
    }

    #[test]
    fn more_ranges_than_fit_one_call_are_read() {
        let value = 7_u64;
        let bytes = ProcessMemory::new(Pid::this()).read(&vec![&raw const value as u64; 2500], 8).unwrap();
        assert_eq!(bytes.len(), 20_000);
        assert!(bytes.chunks(8).all(|word| number::<8>(word, 0) == 7));
    }

    #[test]
    fn more_than_can_be_true_is_not_read() {
        let memory = ServiceMemory::new(ProcessMemory::new(Pid::this()), 0);
        let bytes = vec![1_u8; MAXIMUM_READ];
        let at = bytes.as_ptr() as u64;
        assert_eq!(memory.read([at], MAXIMUM_READ).unwrap().len(), MAXIMUM_READ);
        for (places, length) in [(1, MAXIMUM_READ + 1), (2, MAXIMUM_READ), (1, usize::MAX), (2, usize::MAX)] {
            assert_eq!(memory.read(vec![at; places], length).err(), Some(nix::Error::EOVERFLOW), "{places} {length}");
        }
    }

    #[test]
    fn an_unmapped_address_is_an_error() {
        assert!(ProcessMemory::new(Pid::this()).read(&[8], 8).is_err());
    }

    #[test]
    fn a_word_is_written() {
        let value = 7_u64;
        let memory = ProcessMemory::new(Pid::this());
        memory.write(&raw const value as u64, &9_u64.to_le_bytes()).unwrap();
        assert_eq!(number::<8>(&memory.read(&[&raw const value as u64], 8).unwrap(), 0), 9);
        assert!(memory.write(8, &[0]).is_err());
    }
}
