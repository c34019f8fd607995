package sqlitefile

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFilesystemOf(t *testing.T) {
	for _, test := range []struct {
		name     string
		magic    uint32
		remote   bool
		volatile bool
	}{
		{"ext4", unix.EXT4_SUPER_MAGIC, false, false},
		{"XFS", unix.XFS_SUPER_MAGIC, false, false},
		{"btrfs", unix.BTRFS_SUPER_MAGIC, false, false},
		{"NFS", 0x6969, true, false},
		{"CIFS", 0xff534d42, true, false},
		{"SMB 2", 0xfe534d42, true, false},
		{"9p", 0x01021997, true, false},
		{"Ceph", 0x00c36400, true, false},
		{"Lustre", 0x0bd00bd0, true, false},
		{"overlay", 0x794c7630, false, true},
		{"tmpfs", 0x01021994, false, true},
	} {
		if got := filesystemOf(test.magic); got.remote != test.remote || got.volatile != test.volatile {
			t.Errorf("filesystemOf(%s) = %+v, want remote %v, volatile %v", test.name, got, test.remote, test.volatile)
		}
	}
}
