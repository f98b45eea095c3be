"""The part of libmount's Python interface that crun's tests use: a table of mounts, read from a
file in the form of proc_pid_mountinfo(5). Debian 12 does not package the real one."""


class Mount:
    def __init__(self, line):
        fixed, _, rest = line.partition(" - ")
        fields = fixed.split(" ")
        self.target = fields[4]
        self.vfs_options = fields[5]
        self.fs_options = rest.split(" ")[2].strip()


class Table:
    def __init__(self, path):
        with open(path) as file:
            self.mounts = [Mount(line) for line in file if " - " in line]

    def find_target(self, target):
        """The mount on top, or None."""
        found = [mount for mount in self.mounts if mount.target == target]
        return found[-1] if found else None
