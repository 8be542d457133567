// A program that needs its libc: accounts, threads, names. It ends with 1 where the name that
// it is given is none.
#include <netdb.h>
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void *add(void *sum) {
	++*(int *)sum;
	return NULL;
}

int main(int argc, char **argv) {
	struct passwd *me = getpwuid(getuid());
	char directory[4096];
	printf("user: %s %d home: %s directory: %s\n", me ? me->pw_name : "?", (int)getuid(),
		getenv("HOME"), getcwd(directory, sizeof directory));

	int sum = 0;
	for (int i = 0; i < 8; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, add, &sum) || pthread_join(thread, NULL))
			return 2;
	}
	printf("threads: %d\n", sum);

	struct addrinfo *found = NULL;
	time_t before = time(NULL);
	int status = getaddrinfo(argc > 1 ? argv[1] : "localhost", "80", NULL, &found);
	printf("%s: %s, %s\n", argc > 1 ? argv[1] : "localhost", status ? "no" : "yes",
		time(NULL) - before < 3 ? "at once" : "late");
	return status != 0;
}
