// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT
/*
 * For the lab only: what a stock kernel and an emulated processor lack. Written for this project.
 *
 * - /dev/erst_dbg with the interface of the kernel's own (a read gives one record after the other, a
 *   write writes one), which distributions leave out (CONFIG_ACPI_APEI_ERST_DEBUG).
 * - amd_retire_dram_row, which fmpm calls: amd_atl has it, and does not load without a data fabric.
 *   What was to be retired is only said.
 * - A PPIN for every processor, which QEMU's do not have, before fmpm asks for it.
 * - Machine checks with an MCA_IPID, which QEMU's processor has no register for:
 *   echo "IPID ADDR" > /sys/module/erst_lab/parameters/poison
 */
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/ras.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <acpi/apei.h>
#include <linux/cper.h>
#include <asm/cpufeature.h>
#include <asm/mce.h>
#include <asm/processor.h>

#define PPIN 0x1122334455667788ULL

#define RECORD_MAX 0x4000

static DEFINE_MUTEX(lock);

void amd_retire_dram_row(struct atl_err *err)
{
	pr_notice("erst_lab: asked to retire the row of %#llx, IPID %#llx\n", err->addr, err->ipid);
}
EXPORT_SYMBOL_GPL(amd_retire_dram_row);

struct reader {
	int pos;
};

static int lab_open(struct inode *inode, struct file *file)
{
	struct reader *reader = kzalloc(sizeof(*reader), GFP_KERNEL);
	int err;

	if (!reader)
		return -ENOMEM;
	err = erst_get_record_id_begin(&reader->pos);
	if (err) {
		kfree(reader);
		return err;
	}
	file->private_data = reader;
	return nonseekable_open(inode, file);
}

static int lab_release(struct inode *inode, struct file *file)
{
	erst_get_record_id_end();
	kfree(file->private_data);
	return 0;
}

static ssize_t lab_read(struct file *file, char __user *to, size_t size, loff_t *off)
{
	struct reader *reader = file->private_data;
	struct cper_record_header *record = kzalloc(RECORD_MAX, GFP_KERNEL);
	ssize_t len;
	u64 id;

	if (!record)
		return -ENOMEM;
	mutex_lock(&lock);
	do {
		len = erst_get_record_id_next(&reader->pos, &id);
		if (len || id == APEI_ERST_INVALID_RECORD_ID)
			break;
		len = erst_read_record(id, record, RECORD_MAX, sizeof(*record), NULL);
	} while (len == -ENOENT);
	mutex_unlock(&lock);
	if (len > 0 && (len > RECORD_MAX || (size_t)len > size))
		len = -EINVAL;
	if (len > 0 && copy_to_user(to, record, len))
		len = -EFAULT;
	kfree(record);
	return len;
}

static ssize_t lab_write(struct file *file, const char __user *from, size_t size, loff_t *off)
{
	struct cper_record_header *record;
	int err;

	if (size < sizeof(*record) || size > RECORD_MAX)
		return -EINVAL;
	record = memdup_user(from, size);
	if (IS_ERR(record))
		return PTR_ERR(record);
	mutex_lock(&lock);
	err = record->record_length == size ? erst_write(record) : -EINVAL;
	mutex_unlock(&lock);
	kfree(record);
	return err ? err : size;
}

/* A corrected DRAM error of the northbridge's bank: what fmpm takes for memory where there is no SMCA. */
static int set_poison(const char *text, const struct kernel_param *param)
{
	struct mce mce = {
		.bank = 4,
		.status = 0x9c00400000080813ULL,
		.cpuvendor = boot_cpu_data.x86_vendor,
		.cpuid = cpuid_eax(1),
		.ppin = PPIN,
		.time = ktime_get_real_seconds(),
	};

	if (sscanf(text, "%llx %llx", &mce.ipid, &mce.addr) != 2)
		return -EINVAL;
	mce_log(&mce);
	return 0;
}

static const struct kernel_param_ops poison_ops = { .set = set_poison };
module_param_cb(poison, &poison_ops, NULL, 0200);

static const struct file_operations ops = {
	.owner = THIS_MODULE,
	.open = lab_open,
	.release = lab_release,
	.read = lab_read,
	.write = lab_write,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "erst_dbg",
	.fops = &ops,
};

static int __init lab_init(void)
{
	unsigned int cpu;

	if (erst_disable)
		return -ENODEV;
	for_each_online_cpu(cpu)
		cpu_data(cpu).ppin = PPIN;
	boot_cpu_data.ppin = PPIN;
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_AMD_PPIN);
	return misc_register(&device);
}

static void __exit lab_exit(void)
{
	misc_deregister(&device);
}

module_init(lab_init);
module_exit(lab_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("error record device, PPIN and machine checks for the lab");
