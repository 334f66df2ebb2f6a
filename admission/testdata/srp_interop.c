/*
 * An independent SRP-6a for admission's tests: libcrypto's SRP_Calc_*.
 *
 * Reads lines "group user password salt a b" (group in bits; user and password
 * as text; the rest in hex) and writes one line "N g x v A B u Sc Ss" in hex
 * for each. libcrypto computes x, u and k with SHA-1, as RFC 5054 does.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/srp.h>
#include <stdio.h>
#include <stdlib.h>

static void put(const BIGNUM *n, char end)
{
	char *hex;

	if (n == NULL || (hex = BN_bn2hex(n)) == NULL) {
		fprintf(stderr, "srp_interop: libcrypto refused the input\n");
		exit(1);
	}
	printf("%s%c", hex, end);
	OPENSSL_free(hex);
}

int main(void)
{
	char group[8], user[128], pass[128], salt[128], a_hex[128], b_hex[128];

	while (scanf("%7s %127s %127s %127s %127s %127s", group, user, pass, salt, a_hex, b_hex) == 6) {
		SRP_gN *gn = SRP_get_default_gN(group);
		BIGNUM *s = NULL, *a = NULL, *b = NULL, *x, *v = BN_new(), *A, *B, *u, *sc, *ss;
		BN_CTX *ctx = BN_CTX_new();

		if (gn == NULL || !BN_hex2bn(&s, salt) || !BN_hex2bn(&a, a_hex) || !BN_hex2bn(&b, b_hex))
			return 1;
		x = SRP_Calc_x(s, user, pass);
		if (x == NULL || !BN_mod_exp(v, gn->g, x, gn->N, ctx))
			return 1;
		A = SRP_Calc_A(a, gn->N, gn->g);
		B = SRP_Calc_B(b, gn->N, gn->g, v);
		if (!SRP_Verify_A_mod_N(A, gn->N) || !SRP_Verify_B_mod_N(B, gn->N))
			return 1;
		u = SRP_Calc_u(A, B, gn->N);
		sc = SRP_Calc_client_key(gn->N, B, gn->g, x, a, u);
		ss = SRP_Calc_server_key(A, v, u, b, gn->N);
		put(gn->N, ' '), put(gn->g, ' '), put(x, ' '), put(v, ' '), put(A, ' ');
		put(B, ' '), put(u, ' '), put(sc, ' '), put(ss, '\n');
		BN_free(s), BN_free(a), BN_free(b), BN_free(x), BN_free(v), BN_free(A);
		BN_free(B), BN_free(u), BN_free(sc), BN_free(ss), BN_CTX_free(ctx);
	}
	return 0;
}
